"""What makes adversarial images of one model fool others: changed copies of an image, and smoothed gradients.

All functions are plain TensorFlow.  Random numbers are uniform in [0, 1), one row per image.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfadv.attacks.resampling import bilinear

SHRINK = 1.1  # images are made smaller by up to this factor
ANGLE = 24  # degrees, the largest angle of a block in both directions
_DEVIATIONS = 3  # standard deviations from the centre of the kernel to its rim


def shrunk(x: tf.Tensor, numbers: tf.Tensor, probability: float) -> tf.Tensor:
    """Images that are, with a probability, made smaller and put anywhere on black: input diversity.

    As in the paper (Xie et al. 2018, https://arxiv.org/abs/1803.06978), the image keeps 1 / 1.1 to 1 of its size;
    pixels between pixels are interpolated linearly.

    Args:
      x: float32 (N, H, W, C).
      numbers: float32 (N, 4): whether an image is changed, its size, and its place downwards and to the right.
      probability: from 0, which changes no image, to 1.

    Returns:
      float32 (N, H, W, C).
    """
    changed, size, *places = tf.unstack(numbers, axis=1)
    scale = tf.where(changed < probability, 1 - size * (1 - 1 / SHRINK), 1.0)[:, None]

    def read(n: int, place: tf.Tensor) -> tf.Tensor:
        before = place[:, None] * n * (1 - scale)
        return (tf.range(n, dtype=tf.float32) + 0.5 - before) / scale - 0.5

    rows, columns = (read(n, place) for n, place in zip(x.shape[1:3], places, strict=True))
    return bilinear(x, rows[:, :, None], columns[:, None])


def numbers_of_blocks(blocks: int) -> int:
    """How many random numbers `shuffled` needs for an image."""
    return 2 * blocks + 3 * blocks**2


def shuffled(x: tf.Tensor, numbers: tf.Tensor, blocks: int, angle: float = ANGLE) -> tf.Tensor:
    """Images whose blocks are shuffled and rotated (Wang et al. 2023, https://arxiv.org/abs/2308.10299).

    An image is cut into strips of rows, which change their order, and each strip into blocks, which do likewise.  The
    longest is at most twice as long as the shortest.  Each block is rotated about its own centre, with black corners.

    Args:
      x: float32 (N, H, W, C).
      numbers: float32 (N, `numbers_of_blocks(blocks)`).
      blocks: number of strips, and of blocks in each; 1 changes the angle of the whole image only.
      angle: the largest angle in degrees, in both directions.

    Returns:
      float32 (N, H, W, C).
    """
    height, width = x.shape[1:3]
    cuts, order, *more = tf.split(numbers, [blocks, blocks, *[blocks**2] * 3], axis=1)
    column_cuts, column_order, angles = (tf.reshape(each, (-1, blocks, blocks)) for each in more)
    strip, rows, top, tall = _reordered(height, cuts, order)
    of_columns = [tf.gather(each, strip, batch_dims=1) for each in _reordered(width, column_cuts, column_order)]
    block, columns, left, wide = of_columns  # (N, H, W) each
    rows, top, tall = (tf.cast(each, tf.float32)[:, :, None] for each in (rows, top, tall))
    columns, left, wide = (tf.cast(each, tf.float32) for each in (columns, left, wide))
    turned = tf.gather(tf.gather(angles, strip, batch_dims=1), block, batch_dims=2)
    turned = (2 * turned - 1) * (angle * math.pi / 180)
    middle, centre = top + (tall - 1) / 2, left + (wide - 1) / 2
    down, right = rows - middle, columns - centre
    down, right = tf.cos(turned) * down - tf.sin(turned) * right, tf.sin(turned) * down + tf.cos(turned) * right
    inside = (tf.abs(down) <= tall / 2) & (tf.abs(right) <= wide / 2)
    # Half a pixel from the rim, the rim's own value is read and not that of the next block.
    down = tf.clip_by_value(down, -(tall - 1) / 2, (tall - 1) / 2)
    right = tf.clip_by_value(right, -(wide - 1) / 2, (wide - 1) / 2)
    return bilinear(x, middle + down, centre + right) * tf.cast(inside, tf.float32)[..., None]


def _reordered(n: int, cuts: tf.Tensor, order: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Strips of an axis of n pixels in another order.

    Args:
      n: the length of the axis.
      cuts: float32 (..., B), how long each strip is.
      order: float32 (..., B), by which they are sorted.

    Returns:
      int32 (..., n) each, of every place: which strip it is in, counted in the new order; the pixel that is read; the
      first pixel of the strip that this belongs to; and that strip's length.
    """
    axes = cuts.shape.rank - 1
    ends = tf.cumsum(1 + cuts, axis=-1)
    ends = tf.cast(tf.round(n * ends / ends[..., -1:]), tf.int32)
    begins = tf.concat([tf.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)
    old = tf.argsort(order, axis=-1)
    lengths = tf.gather(ends - begins, old, batch_dims=axes)
    new_ends, places = tf.cumsum(lengths, axis=-1), tf.range(n)
    strip = tf.reduce_sum(tf.cast(places[:, None] >= new_ends[..., None, :], tf.int32), axis=-1)
    first, length, end = (
        tf.gather(each, strip, batch_dims=axes) for each in (tf.gather(begins, old, batch_dims=axes), lengths, new_ends)
    )
    return strip, first + places - (end - length), first, length


def smoothed(gradient: tf.Tensor, kernel: int) -> tf.Tensor:
    """Gradients convolved with a Gaussian: a mean over shifts of the image (Dong et al. 2019).

    The kernel reaches three standard deviations from its centre, as in the published code
    (https://arxiv.org/abs/1904.02884).

    Args:
      gradient: float32 (N, H, W, C); 0 outside of the image.
      kernel: the side of the kernel in pixels, odd; 1 changes nothing.

    Returns:
      float32 (N, H, W, C).
    """
    if kernel == 1:
        return gradient
    weights = gaussian(kernel)[:, :, None, None] * np.ones((1, 1, gradient.shape[3], 1), np.float32)
    return tf.nn.depthwise_conv2d(gradient, weights, [1, 1, 1, 1], "SAME")


def gaussian(kernel: int) -> np.ndarray:
    """float32 (kernel, kernel), with the sum 1."""
    bell = np.exp(-(np.linspace(-_DEVIATIONS, _DEVIATIONS, kernel) ** 2) / 2)
    bell = np.outer(bell, bell)
    return (bell / bell.sum()).astype(np.float32)
