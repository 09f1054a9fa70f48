"""Training with Gaussian noise, for randomized smoothing (Cohen et al. 2019, https://arxiv.org/abs/1902.02918)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks.gradient import logits_of
from tfadv.defenses.online import AdversarialTraining
from tfadv.specs import setting

_VALIDATION_SEED = (0, 0)  # the same noise in all epochs, and another than in all steps


@dataclasses.dataclass(frozen=True)
class Gaussian(AdversarialTraining):
    """Trains on images with Gaussian noise, a fresh draw for each image and step; pixels are not clipped (section 3.3).

    `tfadv.certify` certifies the model with the same sigma.  There is no eps.  The epoch to keep is that of the highest
    accuracy on validation images with noise.

    Attributes:
      sigma: standard deviation of the noise, for pixels in [0, 1].
    """

    full_name: ClassVar[str] = "Gaussian noise"
    in_each_step: ClassVar[str] = "Gaussian noise in each step"

    # Not settings: the guarantee is in L2, and nothing depends on the sizes of a run.
    norm: str = dataclasses.field(default="l2", init=False)
    eps: float | None = dataclasses.field(default=0.0, init=False)
    eps_schedule: str = dataclasses.field(default="fixed", init=False)
    sigma: float = setting(0.25, above=0)

    @property
    def validation_cost(self) -> int:
        """See `Defense.validation_cost`."""
        return 1

    @property
    def attack_steps(self) -> int:
        """See `AdversarialTraining.attack_steps`."""
        return 0

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The images with noise, float32 (N, H, W, C), also outside of [0, 1]."""
        return x + self.sigma * tf.random.stateless_normal(tf.shape(x), seed)

    def robust(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """See `OnlineDefense.robust`: images classified correctly with noise."""
        noisy = self.attack(model, x, y, eps, tf.constant(_VALIDATION_SEED, tf.int64))
        return tf.argmax(logits_of(model, noisy), axis=1) == y
