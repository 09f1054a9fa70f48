"""The loss around an image, along the direction of the gradient and a random one."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.fgsm import direction
from tfadv.attacks.gradient import compiled_logits


def loss_surface(model: Any, x: Any, y: Any, eps: float, points: int = 21, seed: int = 0) -> np.ndarray:
    """The cross-entropy at x + a · sign(gradient) + b · r for a and b from -eps to eps; r is random, -1 or 1.

    A model without gradient masking has a smooth surface that rises along a.  Where gradients are masked, the surface
    is flat or jagged near the image, and rises elsewhere.  Pixels are not clipped: the directions stay straight.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int (N,), true classes.
      eps: the greatest distance in each direction, > 0.
      points: number of steps from -eps to eps, >= 2.
      seed: of the random directions.

    Returns:
      float32 (N, points, points): first axis a, second axis b.
    """
    x, y = tf.convert_to_tensor(x), tf.cast(y, tf.int64)
    uphill = direction(model, x, y)
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), x.shape)
    steps = np.linspace(-eps, eps, points, dtype=np.float32)
    surface = np.empty((len(x), points, points), np.float32)
    for i, a in enumerate(steps):
        for j, b in enumerate(steps):
            logits = compiled_logits(model, x + a * uphill + b * signs)
            surface[:, i, j] = losses.cross_entropy(logits, y)
    return surface
