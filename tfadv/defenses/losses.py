"""The losses that defenses share."""

from __future__ import annotations

import tensorflow as tf


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


def kl_divergence(logits: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """KL(softmax(logits) ‖ softmax(other)), float32 (N,); from log-softmax, which cannot be infinite."""
    log_p, log_q = tf.nn.log_softmax(logits), tf.nn.log_softmax(other)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1)
