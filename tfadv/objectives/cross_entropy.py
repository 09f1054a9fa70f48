"""Standard training: the cross-entropy of the images as they are."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def cross_entropy(model: Any, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """-log softmax(model(x))_y.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int64 (N,).

    Returns:
      (losses float32 (N,), logits float32 (N, K)).
    """
    logits = model(x, training=True)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits), logits
