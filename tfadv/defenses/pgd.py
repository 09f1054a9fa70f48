"""Adversarial training with PGD (Madry et al. 2017, https://arxiv.org/abs/1706.06083)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.defenses.online import AdversarialTraining, ascend, random_start
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class PGD(AdversarialTraining):
    """Trains on PGD's images from a uniformly random start.

    Attributes:
      steps: of PGD; each costs a gradient.
      awp: size of the adversarial weight perturbation, see `tfadv.training.awp`; the paper's γ, 0.01 there.
    """

    full_name: ClassVar[str] = "PGD training"
    several_steps: ClassVar[bool] = True

    steps: int = setting(7, least=1)
    awp: float = setting(0.0, least=0)

    @property
    def attack_steps(self) -> int:
        """See `AdversarialTraining.attack_steps`."""
        return self.steps

    @property
    def cost(self) -> float:
        """See `Defense.cost`."""
        return super().cost + (self.awp > 0)

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialTraining.attack`."""
        norm, eps = self.norm_and_sizes(x, eps, seed)
        return ascend(model, x, y, random_start(x, eps, seed, norm), eps, steps=self.steps, norm=norm)


def two_steps(defense: AdversarialTraining) -> PGD:
    """What a defense with one attack step goes on with where it has collapsed: two steps, with its other settings."""
    kept = ("norm", "eps", "eps_schedule", "share", "smoothing")
    return PGD(steps=2, **{name: getattr(defense, name) for name in kept})
