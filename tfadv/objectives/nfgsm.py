"""N-FGSM: one step from strong noise, without a projection (de Jorge et al. 2022, https://arxiv.org/abs/2202.01181)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient, sign
from tfadv.objectives.adversarial import AdversarialObjective
from tfadv.objectives.base import Objective
from tfadv.objectives.pgd import PGDTraining


@dataclasses.dataclass(frozen=True)
class NFGSM(AdversarialObjective):
    """Trains on clip(x̃ + eps · sign ∇ L(x̃)) with x̃ = clip(x + η), η uniform in ±noise · eps (algorithm 1).

    The noise is part of the training image, and the perturbation is not projected to within eps.  Both prevent
    catastrophic overfitting at the usual sizes of eps.

    Attributes:
      noise: size of the noise as a multiple of eps; the paper's k.
      step: size of the step as a multiple of eps; the paper's α / ε.
    """

    noise: float = 2.0
    step: float = 1.0

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`."""
        noise = self.noise * eps * tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)
        start = tf.clip_by_value(x + noise, 0.0, 1.0)
        _, gradient = logits_and_gradient(model, start, y)
        return tf.clip_by_value(start + self.step * eps * sign(gradient), 0.0, 1.0)

    def stronger(self) -> Objective:
        """Two steps of PGD."""
        return PGDTraining(eps=self.eps, share=self.share, smoothing=self.smoothing, steps=2)
