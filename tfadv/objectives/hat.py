"""HAT: helper-based adversarial training (Rade & Moosavi-Dezfooli 2022, https://openreview.net/forum?id=Azh9QBQ4tR7)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks.gradient import logits_of
from tfadv.objectives.cross_entropy import smoothed_cross_entropy
from tfadv.objectives.trades import TRADES, kl_divergence


@dataclasses.dataclass(frozen=True)
class HAT(TRADES):
    """CE(f(x), y) + beta · KL(f(x) ‖ f(x')) + gamma · CE(f(x + reach · (x' - x)), h(x')), the images x' as in TRADES.

    The helper h is the model as it was when training started.  Its predictions beyond x' keep the margins of the
    network from growing more than robustness needs, which costs clean accuracy.

    Attributes:
      gamma: weight of the third term.
      reach: how far the images of the third term are from x, as a multiple of the perturbation; the paper's h.
    """

    _helper: ClassVar[Any] = None

    beta: float = 2.5
    gamma: float = 0.5
    reach: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 0:
            raise ValueError(f"gamma must be at least 0, got {self.gamma}.")

    @property
    def cost(self) -> float:
        """See `Objective.cost`: as TRADES, and one more image in the update."""
        return super().cost + 1

    @property
    def needs_helper(self) -> bool:
        """True."""
        return True

    def with_helper(self, helper: Any) -> HAT:
        """See `Objective.with_helper`."""
        bound = dataclasses.replace(self)
        object.__setattr__(bound, "_helper", helper)  # not a field, because it is not a setting
        return bound

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`; the logits are those of the clean images."""
        if adversarial is None:
            adversarial = x
        predicted = tf.argmax(logits_of(self._helper, adversarial), axis=1)
        beyond = x + self.reach * (adversarial - x)
        logits = model(tf.concat([x, adversarial, beyond], axis=0), training=True)
        clean, attacked, helped = tf.split(logits, 3)
        losses = smoothed_cross_entropy(clean, y) + self.beta * kl_divergence(clean, attacked)
        return losses + self.gamma * smoothed_cross_entropy(helped, predicted), clean
