"""MART: misclassification-aware adversarial training (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.defenses.losses import kl_divergence
from tfadv.defenses.online import OnlineDefense, ascend, random_start
from tfadv.specs import setting

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class MART(OnlineDefense):
    """BCE(f(x'), y) + beta · KL(f(x) ‖ f(x')) · (1 - p_y(x)), the images x' by PGD (eq. 11).

    BCE is -log p_y(x') - log(1 - max_{j≠y} p_j(x')).  Clean and adversarial images go through the network in one call.

    Attributes:
      beta: weight of the second term; the paper's λ.
      steps: of PGD.
    """

    full_name: ClassVar[str] = "MART"
    several_steps: ClassVar[bool] = True

    beta: float = setting(5.0, least=0)
    steps: int = setting(10, least=1)

    @property
    def cost(self) -> float:
        """See `Defense.cost`: clean and adversarial images both count in the update."""
        return self.steps + 2

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """PGD on the cross-entropy from a uniformly random start."""
        norm, eps = self.norm_and_sizes(x, eps, seed)
        return ascend(model, x, y, random_start(x, eps, seed, norm), eps, steps=self.steps, norm=norm)

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Defense.loss`; the logits are those of the adversarial images."""
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
