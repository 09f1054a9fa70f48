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
    return smoothed_cross_entropy(logits, y), logits


def smoothed_cross_entropy(logits: tf.Tensor, y: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, section 7).

    Args:
      logits: float32 (N, K).
      y: int64 (N,).
      smoothing: the probability mass that is spread evenly over all K classes, in [0, 1).

    Returns:
      float32 (N,).
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
    if not smoothing:
        return losses
    return (1 - smoothing) * losses - smoothing * tf.reduce_mean(tf.nn.log_softmax(logits), axis=1)
