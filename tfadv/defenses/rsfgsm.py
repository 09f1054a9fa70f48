"""RS-FGSM, "fast" adversarial training (Wong et al. 2020, https://arxiv.org/abs/2001.03994)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient
from tfadv.attacks.norms import NORMS
from tfadv.defenses.base import Defense
from tfadv.defenses.online import AdversarialTraining, random_start
from tfadv.defenses.pgd import two_steps
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class RSFGSM(AdversarialTraining):
    """Trains on one step of 1.25 eps from a uniformly random start, projected to within eps (algorithm 3).

    It can collapse (catastrophic overfitting) at large eps or in long runs; `NFGSM` costs the same and is safer.

    Attributes:
      step: size of the step as a multiple of eps; the paper's α / ε.
    """

    full_name: ClassVar[str] = "RS-FGSM"

    step: float = setting(1.25, above=0)

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialTraining.attack`."""
        norm = NORMS[self.norm]
        start = random_start(x, eps, seed, norm)
        _, gradient = logits_and_gradient(model, start, y)
        return norm.ascend(start, gradient, self.step * eps, x, eps, 0.0, 1.0)

    def fallback(self) -> Defense:
        """Two steps of PGD."""
        return two_steps(self)
