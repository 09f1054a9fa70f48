"""The fast gradient sign method (Goodfellow et al. 2014, https://arxiv.org/abs/1412.6572; the paper's eq. 4-5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.attacks import gradient
from tfadv.attacks.base import Attack, Call, precision_setting
from tfadv.models.compiled import PerModel


def logits_and_direction(model: Any, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The logits and the sign of the loss's gradient: all of FGSM that needs the model.

    Plain TensorFlow: call it inside your own `tf.function`.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int (N,), true classes.

    Returns:
      (float32 (N, K), float32 (N, H, W, C) of -1, 0 and 1).
    """
    logits, grad = gradient.logits_and_gradient(model, x, y)
    return logits, gradient.sign(grad)


def step(x: tf.Tensor, direction: tf.Tensor, eps: Any, clip: tuple[float, float] = (0.0, 1.0)) -> tf.Tensor:
    """Eq. 4: clip(x + eps * direction); shapes broadcast."""
    return tf.clip_by_value(x + eps * direction, *clip)


# float32 (N, H, W, C) of -1, 0 and 1: where FGSM moves each pixel, the same for every eps
direction = PerModel(lambda model, x, y: logits_and_direction(model, x, y)[1])


@dataclasses.dataclass(frozen=True)
class FGSM(Attack):
    """One step of size eps along the sign of the gradient; one gradient serves all eps.

    The model is traced once, whatever the eps and the batch size.

    Attributes:
      targeted: True moves the images to class y (the paper's eq. 2) instead of away from it.
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    targeted: bool = False
    precision: str = precision_setting()

    def one_pass(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, clip: tuple[float, float] = (0.0, 1.0)
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The logits of x and the adversarial images for several eps, from one pass forward and backward.

        Plain TensorFlow: call it inside your own `tf.function`.

        Args:
          model, x, y, clip: as `logits_and_direction` takes them.
          eps: float32 (E,).

        Returns:
          (float32 (N, K), float32 (E, N, H, W, C)).
        """
        logits, sign = logits_and_direction(model, x, y)
        return logits, self._move(x, sign, eps, clip)

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`."""
        call.cost.add(gradients=len(y))
        return self._move(x, direction(call.search_model, x, y), sizes, call.clip)

    def _move(self, x: tf.Tensor, sign: tf.Tensor, eps: tf.Tensor, clip: tuple[float, float]) -> tf.Tensor:
        return step(x, -sign if self.targeted else sign, eps[:, None, None, None, None], clip)
