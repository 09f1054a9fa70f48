"""Digital corruptions: functions of images float32 (N, H, W, C) in [0, 1], constants, and the images' random numbers.

In HSV, the value V is the greatest of the channels, and the saturation S is 1 - (the least of them) / V.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfadv.attacks.corruptions.operations import Draws, across, blurred, down, nearest_levels
from tfadv.attacks.resampling import bilinear


def brightness(x: tf.Tensor, draws: Draws, more: float) -> tf.Tensor:
    """Adds to the value of HSV, up to 1."""
    value = tf.reduce_max(x, axis=3, keepdims=True)
    brighter = tf.minimum(value + more, 1.0)
    return tf.where(value > 0, x * tf.math.divide_no_nan(brighter, value), brighter)


def saturate(x: tf.Tensor, draws: Draws, factor: float, more: float) -> tf.Tensor:
    """Changes the saturation of HSV; gray pixels of color images become red, grayscale images stay as they are."""
    if x.shape[3] == 1:
        return x
    value, least = tf.reduce_max(x, axis=3, keepdims=True), tf.reduce_min(x, axis=3, keepdims=True)
    saturation = tf.math.divide_no_nan(value - least, value)
    changed = tf.clip_by_value(factor * saturation + more, 0.0, 1.0)
    below = tf.math.divide_no_nan(value - x, value - least)  # from 0, the greatest channel, to 1, the least one
    below = tf.where(value > least, below, tf.constant([0.0, 1.0, 1.0]))
    return value * (1 - changed * below)


def contrast(x: tf.Tensor, draws: Draws, factor: float) -> tf.Tensor:
    """Shrinks the distance of each channel to its mean."""
    mean = tf.reduce_mean(x, axis=(1, 2), keepdims=True)
    return (x - mean) * factor + mean


def elastic_transform(x: tf.Tensor, draws: Draws, alpha: float, sigma: float, corner: float) -> tf.Tensor:
    """A random affine map that moves three corners, then smooth random displacements."""
    height, width = x.shape[1:3]
    side = min(height, width)
    rows, columns = (tf.cast(grid, tf.float32)[None] for grid in np.mgrid[:height, :width])
    if corner:
        x = bilinear(x, *_affine(draws, height, width, corner * side), border="mirror")
    if alpha:
        noise = draws.uniform((height, width, 2), -1.0, 1.0)
        shifts = alpha * side * (blurred(noise, sigma * side, "reflect", 3.0) if sigma else noise)
        x = bilinear(x, rows + shifts[..., 0], columns + shifts[..., 1], border="reflect")
    return x


def _affine(draws: Draws, height: int, width: int, most: float) -> tuple[tf.Tensor, tf.Tensor]:
    """(rows, columns), float32 (N, H, W): the places that a map reads which moves three points by up to `most`."""
    centre, reach = np.array([width // 2, height // 2]), max(min(height, width) // 3, 1)
    points = (centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)  # (column, row)
    moved = points + draws.uniform((3, 2), -most, most)
    ones = tf.ones_like(moved[..., :1])
    back = tf.linalg.solve(tf.concat([moved, ones], 2), tf.broadcast_to(points, tf.shape(moved)))  # (N, 3, 2)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    places = tf.einsum("hwk,nkj->jnhw", tf.constant(np.stack([columns, rows, np.ones_like(rows)], 2)), back)
    return places[1], places[0]


def pixelate(x: tf.Tensor, draws: Draws, factor: float) -> tf.Tensor:
    """Means of blocks in place of pixels, as by Pillow's `resize`."""
    means, nearest = zip(*(_blocks(n, max(int(n * factor), 1)) for n in x.shape[1:3]), strict=True)
    levels = tf.floor(across(nearest_levels(x), means[1]) + 0.5)
    levels = tf.floor(down(levels, means[0]) + 0.5)
    return tf.gather(tf.gather(levels, nearest[0], axis=1), nearest[1], axis=2) / 255.0


def _blocks(n: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(the weights (number, n) of n pixels in each block, the block int (n,) of each pixel of the result)."""
    size, pixels = n / number, np.arange(n)
    middles = (np.arange(number)[:, None] + 0.5) * size
    # Where a pixel lies half in a block, rounding decides: these are Pillow's operations in their order.
    first, last = (middles - 0.5 * size + 0.5).astype(int), (middles + 0.5 * size + 0.5).astype(int)
    places = (pixels - middles + 0.5) * (1 / size)
    weights = (pixels >= first) & (pixels < last) & (places > -0.5) & (places <= 0.5)
    return weights / weights.sum(axis=1, keepdims=True), ((pixels + 0.5) * (number / n)).astype(int)


def jpeg_compression(x: tf.Tensor, draws: Draws, quality: float) -> tf.Tensor:
    """JPEG with chroma subsampling."""

    def compressed(image: tf.Tensor) -> tf.Tensor:
        content = tf.io.encode_jpeg(image, quality=round(quality))
        return tf.io.decode_jpeg(content, channels=image.shape[2], dct_method="INTEGER_ACCURATE")

    levels = tf.cast(nearest_levels(x), tf.uint8)
    decoded = tf.map_fn(compressed, levels, fn_output_signature=tf.TensorSpec(x.shape[1:], tf.uint8))
    return tf.cast(decoded, tf.float32) / 255.0
