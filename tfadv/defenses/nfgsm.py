"""N-FGSM: one step from strong noise, without a projection (de Jorge et al. 2022, https://arxiv.org/abs/2202.01181)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient
from tfadv.attacks.norms import NORMS
from tfadv.defenses.base import Defense
from tfadv.defenses.online import AdversarialTraining
from tfadv.defenses.pgd import two_steps
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class NFGSM(AdversarialTraining):
    """Trains on clip(x̃ + eps · sign ∇ L(x̃)) with x̃ = clip(x + η), η uniform in ±noise · eps (algorithm 1).

    The noise is part of the training image, and the perturbation is not projected to within eps.  Both prevent
    catastrophic overfitting at the usual sizes of eps.

    Attributes:
      noise: size of the noise as a multiple of eps; the paper's k.
      step: size of the step as a multiple of eps; the paper's α / ε.
    """

    full_name: ClassVar[str] = "N-FGSM"

    noise: float = setting(2.0, least=0)
    step: float = setting(1.0, above=0)

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialTraining.attack`."""
        geometry = NORMS[self.norm]
        start = tf.clip_by_value(x + self.noise * eps * geometry.draw(x, seed), 0.0, 1.0)
        _, gradient = logits_and_gradient(model, start, y)
        return tf.clip_by_value(start + self.step * eps * geometry.steepest_ascent(gradient), 0.0, 1.0)

    def fallback(self) -> Defense:
        """Two steps of PGD."""
        return two_steps(self)
