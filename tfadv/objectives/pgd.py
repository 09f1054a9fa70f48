"""Adversarial training with PGD (Madry et al. 2017, https://arxiv.org/abs/1706.06083)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.objectives.adversarial import AdversarialObjective, ascend, random_start


@dataclasses.dataclass(frozen=True)
class PGDTraining(AdversarialObjective):
    """Trains on PGD's images from a uniformly random start.

    Attributes:
      steps: of PGD; each costs a gradient.
      awp: size of the adversarial weight perturbation, see `tfadv.training.awp`; the paper's γ, 0.01 there.
    """

    steps: int = 7
    awp: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.awp < 0:
            raise ValueError(f"steps must be at least 1 and awp at least 0, got {self.steps} and {self.awp}.")

    @property
    def attack_steps(self) -> int:
        """See `AdversarialObjective.attack_steps`."""
        return self.steps

    @property
    def cost(self) -> float:
        """See `Objective.cost`."""
        return super().cost + (self.awp > 0)

    @property
    def weight_perturbation(self) -> float:
        """See `Objective.weight_perturbation`."""
        return self.awp

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`."""
        return ascend(model, x, y, random_start(x, eps, seed), eps, steps=self.steps)
