"""Free adversarial training (Shafahi et al. 2019, https://arxiv.org/abs/1904.12843)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.attacks.gradient import sign
from tfadv.attacks.norms import Linf
from tfadv.objectives.adversarial import AdversarialObjective, random_start


@dataclasses.dataclass(frozen=True)
class FreeTraining(AdversarialObjective):
    """Updates the weights several times per batch; each backward pass also gives the next step of the attack.

    A step moves the images by eps along the sign of the gradient and projects them to within eps (algorithm 1).  The
    perturbations of a batch start at random instead of at those of the batch before: Wong et al. 2020
    (https://arxiv.org/abs/2001.03994) found a random start to work at least as well, and a resumed run then needs no
    further state.

    Attributes:
      replays: updates per batch; the paper's m.  An epoch takes so many times as long.
    """

    replays: int = 4  # a setting in place of the property

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, got {self.replays}.")

    @property
    def cost(self) -> float:
        """See `Objective.cost`."""
        return self.replays

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`: the random start."""
        return random_start(x, eps, seed)

    def next_adversarial(self, x: tf.Tensor, adversarial: tf.Tensor, gradient: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """See `Objective.next_adversarial`."""
        n = adversarial.shape[0]
        eps = eps[:n] if eps.shape.rank else eps
        return Linf.project(adversarial + eps * sign(gradient), x[:n], eps, 0.0, 1.0)
