"""Classes to aim at."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient
from tfadv.errors import check_name

TARGETS = ("least-likely", "random")


def choose(which, model, x, y, seed=0):
    """Target classes by a rule.

    Args:
      which: "least-likely", the class of the smallest logit other than y, or "random", any class but y.
      model: a Keras model from float32 images to logits (N, K).
      x: float32 (N, H, W, C).
      y: int (N,), true classes.
      seed: int, of "random".

    Returns:
      int64 (N,), never y.

    Raises:
      UserError: no such rule.
    """
    check_name("target", which, TARGETS)
    y = tf.cast(tf.convert_to_tensor(y), tf.int64)
    logits = gradient.compiled_logits(model, x, jit_compile=gradient.xla())
    if which == "least-likely":
        return most_likely_others(logits, y)[:, -1]
    # One number an image: which of the K - 1 others, counted on from y.
    others = tf.random.stateless_uniform(tf.shape(y), tf.constant((seed, 0), tf.int64), 1, logits.shape[-1], tf.int64)
    return (y + others) % logits.shape[-1]


def most_likely_others(logits, y):
    """int64 (N, K - 1): all classes but y (N,), by logits (N, K), the most likely one first."""
    classes = logits.shape[-1]
    others = tf.where(tf.one_hot(y, classes, True, False), -np.inf, tf.maximum(logits, logits.dtype.min))
    return tf.cast(tf.argsort(others, direction="DESCENDING")[:, : classes - 1], tf.int64)
