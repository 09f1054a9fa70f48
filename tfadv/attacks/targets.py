"""Target classes for targeted attacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.randomness import TARGET, drawn
from tfadv.errors import check_name
from tfadv.models.compiled import compiled_logits

TARGETS = ("least-likely", "random")


def choose_targets(
    rule: str, model: Any, x: tf.Tensor, y: tf.Tensor, seed: int = 0, numbers: tf.Tensor | None = None
) -> tf.Tensor:
    """Chooses a target class for each image.

    Args:
      rule: "least-likely", the class of the smallest logit other than y, or "random", any class but y.
      model: a Keras model from float32 images to logits (N, K).
      x: float32 (N, H, W, C).
      y: int (N,), true classes.
      seed: int, for "random".
      numbers: int64 (N,), the numbers of the images, on which the choice of "random" depends; None means 0 to N - 1.

    Returns:
      int64 (N,), never y.

    Raises:
      UserError: the rule is unknown.
    """
    check_name("target", rule, TARGETS)
    y = tf.cast(tf.convert_to_tensor(y), tf.int64)
    logits = compiled_logits(model, x)
    if rule == "least-likely":
        return most_likely_others(logits, y)[:, -1]
    # One number per image: which of the K - 1 other classes, counted from y.
    numbers, first = tf.range(len(y)) if numbers is None else numbers, np.zeros(len(y), np.int64)
    others = drawn(lambda generator: generator.integers(1, logits.shape[-1]), seed, TARGET, numbers, first)
    return (y + others) % logits.shape[-1]


def most_likely_others(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """int64 (N, K - 1): all classes but y (N,), ordered by logits (N, K), the most likely one first."""
    classes = logits.shape[-1]
    others = tf.where(tf.one_hot(y, classes, True, False), -np.inf, tf.maximum(logits, logits.dtype.min))
    return tf.cast(tf.argsort(others, direction="DESCENDING")[:, : classes - 1], tf.int64)
