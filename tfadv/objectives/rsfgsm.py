"""RS-FGSM, "fast" adversarial training (Wong et al. 2020, https://arxiv.org/abs/2001.03994)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient, sign
from tfadv.attacks.norms import Linf
from tfadv.objectives.adversarial import AdversarialObjective, random_start
from tfadv.objectives.base import Objective
from tfadv.objectives.pgd import PGDTraining


@dataclasses.dataclass(frozen=True)
class RSFGSM(AdversarialObjective):
    """Trains on one step of 1.25 eps from a uniformly random start, projected to within eps (algorithm 3).

    It can collapse (catastrophic overfitting) at large eps or in long runs; `NFGSM` costs the same and is safer.

    Attributes:
      step: size of the step as a multiple of eps; the paper's α / ε.
    """

    step: float = 1.25

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`."""
        start = random_start(x, eps, seed)
        _, gradient = logits_and_gradient(model, start, y)
        return Linf.project(start + self.step * eps * sign(gradient), x, eps, 0.0, 1.0)

    def stronger(self) -> Objective:
        """Two steps of PGD."""
        return PGDTraining(eps=self.eps, share=self.share, smoothing=self.smoothing, steps=2)
