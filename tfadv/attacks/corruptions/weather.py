"""Weather: functions of images float32 (N, H, W, C) in [0, 1], constants, and the images' random numbers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfadv.attacks.corruptions.operations import Draws, moved, nearest_levels, zoomed

_GRAY = (0.299, 0.587, 0.114)  # of red, green and blue


def snow(x: tf.Tensor, draws: Draws, *constants: float) -> tf.Tensor:
    """A whitened image behind flakes that fall, and the same flakes turned by 180°."""
    mean, deviation, factor, least, radius, sigma, share = constants
    flakes = zoomed(mean + deviation * draws.normal((*x.shape[1:3], 1)), [factor])
    flakes = tf.clip_by_value(tf.where(flakes < least, 0.0, flakes), 0.0, 1.0)
    flakes = nearest_levels(moved(flakes, draws.uniform((), -135.0, -45.0), radius, sigma)) / 255.0
    gray = x if x.shape[3] == 1 else tf.reduce_sum(x * _GRAY, axis=3, keepdims=True)
    whitened = share * x + (1 - share) * tf.maximum(x, 1.5 * gray + 0.5)
    return whitened + flakes + flakes[:, ::-1, ::-1]


def fog(x: tf.Tensor, draws: Draws, amount: float, decay: float) -> tf.Tensor:
    """Fog of a fractal shape; the greatest value of the image stays."""
    height, width = x.shape[1:3]
    greatest = tf.reduce_max(x, axis=(1, 2, 3), keepdims=True)
    cloud = plasma(draws, int(np.ceil(np.log2(max(height, width)))), decay)[:, :height, :width, None]
    return (x + amount * cloud) * greatest / (greatest + amount)


def plasma(draws: Draws, levels: int, decay: float) -> tf.Tensor:
    """float32 (N, S, S) from 0 to 1, S = 2^levels: a fractal of the diamond-square algorithm.

    Each level halves the distance of the points and puts the mean of four neighbors plus noise between them; the square
    of `decay` divides the noise from level to level, as in the published sets.  Opposite borders fit together.
    """
    noise, used, size = draws.uniform((4**levels,), -1.0, 1.0), 0, 100.0**2
    points = noise[:, :1, None] * 0.0
    for n in (2**level for level in range(levels)):
        new = tf.reshape(noise[:, used : used + 3 * n * n], (-1, 3, n, n)) * size
        right, down = tf.roll(points, -1, 2), tf.roll(points, -1, 1)
        middle = (points + right + down + tf.roll(right, -1, 1)) / 4 + new[:, 0]
        between = (points + right + middle + tf.roll(middle, 1, 1)) / 4 + new[:, 1]
        below = (points + down + middle + tf.roll(middle, 1, 2)) / 4 + new[:, 2]
        upper, lower = (tf.reshape(tf.stack(pair, 3), (-1, n, 2 * n)) for pair in ((points, between), (below, middle)))
        points = tf.reshape(tf.stack((upper, lower), 2), (-1, 2 * n, 2 * n))
        used, size = used + 3 * n * n, size / decay**2
    points -= tf.reduce_min(points, axis=(1, 2), keepdims=True)
    return tf.math.divide_no_nan(points, tf.reduce_max(points, axis=(1, 2), keepdims=True))
