"""MART: misclassification-aware adversarial training (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.objectives.adversarial import RobustObjective, ascend, random_start
from tfadv.objectives.trades import kl_divergence

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class MART(RobustObjective):
    """BCE(f(x'), y) + beta · KL(f(x) ‖ f(x')) · (1 - p_y(x)), the images x' by PGD (eq. 11).

    BCE is -log p_y(x') - log(1 - max_{j≠y} p_j(x')).  Clean and adversarial images go through the network in one call.

    Attributes:
      beta: weight of the second term; the paper's λ.
      steps: of PGD.
    """

    beta: float = 5.0
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or self.steps < 1:
            raise ValueError(f"beta must be at least 0 and steps at least 1, got {self.beta} and {self.steps}.")

    @property
    def cost(self) -> float:
        """See `Objective.cost`: clean and adversarial images both count in the update."""
        return self.steps + 2

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """PGD on the cross-entropy from a uniformly random start."""
        return ascend(model, x, y, random_start(x, eps, seed), eps, steps=self.steps)

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`; the logits are those of the adversarial images."""
        assert adversarial is not None
        clean, attacked = tf.split(model(tf.concat([x, adversarial], axis=0), training=True), 2)
        return mart_loss(clean, attacked, y, self.beta), attacked


def mart_loss(clean: tf.Tensor, attacked: tf.Tensor, y: tf.Tensor, beta: float) -> tf.Tensor:
    """The loss of `MART` from clean and adversarial logits (N, K), float32 (N,)."""
    own = tf.one_hot(y, clean.shape[-1], on_value=True, off_value=False)
    attacked_probabilities = tf.nn.softmax(attacked)
    runner_up = tf.reduce_max(tf.where(own, 0.0, attacked_probabilities), axis=1)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=attacked)
    boosted = cross_entropy - tf.math.log(tf.maximum(1.0 - runner_up, _TINY))
    clean_probability = tf.gather(tf.nn.softmax(clean), y, batch_dims=1)
    return boosted + beta * kl_divergence(clean, attacked) * (1.0 - clean_probability)
