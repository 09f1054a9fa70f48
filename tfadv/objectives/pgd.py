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
    """

    steps: int = 7

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`."""
        return ascend(model, x, y, random_start(x, eps, seed), eps, steps=self.steps)
