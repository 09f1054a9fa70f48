"""Images read at other places than their pixels: `bilinear`."""

from __future__ import annotations

import tensorflow as tf


def bilinear(x: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, border: str = "zero") -> tf.Tensor:
    """Images at other places, each with its own places.  Plain TensorFlow.

    Args:
      x: float32 (N, H, W, C).
      rows: float32 (N, A, B), where pixels are read; 0 is the middle of the first row, H - 1 that of the last one.
      columns: float32 (N, A, B), as `rows`.
      border: what is outside of the image: "zero"; "reflect" (d c b a | a b c d | d c b a) or "mirror"
        (d c b | a b c d | c b a), as in SciPy.

    Returns:
      float32 (N, A, B, C).
    """
    height, width = x.shape[1:3]
    pixels = tf.reshape(x, (-1, height * width, x.shape[3]))
    top, left = tf.floor(rows), tf.floor(columns)
    total = 0.0
    for down in (0, 1):
        for right in (0, 1):
            row, row_weight = _inside(tf.cast(top, tf.int32) + down, height, border)
            column, column_weight = _inside(tf.cast(left, tf.int32) + right, width, border)
            weight = (1 - tf.abs(rows - top - down)) * (1 - tf.abs(columns - left - right))
            weight *= row_weight * column_weight
            total += weight[..., None] * tf.gather(pixels, row * width + column, batch_dims=1)
    return total


def _inside(index: tf.Tensor, n: int, border: str) -> tuple[tf.Tensor, tf.Tensor]:
    """(the index from 0 to n - 1 whose pixel is read, its weight, 0 or 1)."""
    if border == "zero":
        inside = tf.clip_by_value(index, 0, n - 1)
        return inside, tf.cast(inside == index, tf.float32)
    period = 2 * n if border == "reflect" else max(2 * n - 2, 1)
    index = tf.math.floormod(index, period)
    return tf.minimum(index, (2 * n - 1 if border == "reflect" else period) - index), tf.constant(1.0)
