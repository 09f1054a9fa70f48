"""TRADES: clean cross-entropy and a divergence between clean and adversarial outputs (https://arxiv.org/abs/1901.08573)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks.gradient import logits_of
from tfadv.defenses.losses import kl_divergence, smoothed_cross_entropy
from tfadv.defenses.online import OnlineDefense, ascend
from tfadv.specs import setting

_START_NOISE = 0.001  # at x itself the divergence has no gradient


@dataclasses.dataclass(frozen=True)
class TRADES(OnlineDefense):
    """CE(f(x), y) + beta · KL(f(x) ‖ f(x')) where x' maximizes the divergence (Zhang et al. 2019, eq. 5).

    Clean and adversarial images go through the network in one call.

    Attributes:
      beta: weight of the divergence; the paper's 1/λ.  0 is standard training.
      steps: of the search for x'.
      awp: size of the adversarial weight perturbation, see `tfadv.training.awp`; the paper's γ, 0.005 there.
    """

    full_name: ClassVar[str] = "TRADES"
    several_steps: ClassVar[bool] = True

    beta: float = setting(6.0, least=0)
    steps: int = setting(10, least=1)
    awp: float = setting(0.0, least=0)

    @property
    def cost(self) -> float:
        """See `Defense.cost`: clean and adversarial images both count in the update."""
        return self.steps + 2 * (1 + (self.awp > 0)) if self.beta else 1

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor | None:
        """The images within eps whose outputs differ most from those of x."""
        if not self.beta:
            return None
        norm, eps = self.norm_and_sizes(x, eps, seed)
        clean = tf.stop_gradient(logits_of(model, x))
        noise = _START_NOISE * tf.random.stateless_normal(tf.shape(x), seed)
        start = tf.clip_by_value(x + norm.project(noise, tf.zeros_like(x), eps, -1.0, 1.0), 0.0, 1.0)

        def divergence(logits: tf.Tensor, *_: Any) -> tf.Tensor:
            return kl_divergence(clean, logits)

        return ascend(model, x, y, start, eps, steps=self.steps, loss=divergence, norm=norm)

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Defense.loss`; the logits are those of the clean images."""
        if adversarial is None:
            logits = model(x, training=True)
            return smoothed_cross_entropy(logits, y), logits
        clean, attacked = tf.split(model(tf.concat([x, adversarial], axis=0), training=True), 2)
        return smoothed_cross_entropy(clean, y) + self.beta * kl_divergence(clean, attacked), clean
