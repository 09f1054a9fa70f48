"""Blur: functions of images float32 (N, H, W, C) in [0, 1], constants, and the images' random numbers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfadv.attacks.corruptions.operations import Draws, blurred, convolved, levels, moved, zoomed

_CHAIN = 6  # doublings: a pixel is handed on 2^6 times at most, which has a probability below 1e-20


def gaussian_blur(x: tf.Tensor, draws: Draws, sigma: float) -> tf.Tensor:
    """Blur of a Gaussian."""
    return blurred(x, sigma)


def defocus_blur(x: tf.Tensor, draws: Draws, radius: float, edge: float) -> tf.Tensor:
    """Blur of a disk with a soft edge."""
    return convolved(x, disk(radius, edge))


def disk(radius: float, edge: float) -> np.ndarray:
    """The kernel (2R + 1, 2R + 1) of a disk whose edge is blurred over one pixel or, of large disks, two.

    As in the published sets, R is 8, or the radius where it is larger.  Then a disk reaches the border of the kernel,
    which is mirrored in the blur of the edge, and the sum exceeds 1 by up to a hundredth.
    """
    from scipy.ndimage import correlate

    size, reach = (8, 1) if radius <= 8 else (int(np.ceil(radius)), 2)
    squares = np.square(np.arange(-size, size + 1))
    kernel = (squares[:, None] + squares <= radius**2).astype(float)
    weights = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * edge**2))
    return correlate(kernel / kernel.sum(), np.outer(weights, weights) / weights.sum() ** 2, mode="mirror")


def zoom_blur(x: tf.Tensor, draws: Draws, end: float, step: float) -> tf.Tensor:
    """The mean of an image and of its magnifications."""
    factors = np.arange(1, end, step)
    return (x + zoomed(x, factors)) / (len(factors) + 1)


def motion_blur(x: tf.Tensor, draws: Draws, radius: float, sigma: float) -> tf.Tensor:
    """Blur along a line to the right, up to 45° upwards or downwards."""
    return moved(x, draws.uniform((), -45.0, 45.0), radius, sigma)


def glass_blur(x: tf.Tensor, draws: Draws, sigma: float, shift: float, rounds: float) -> tf.Tensor:
    """Blur, pixels replaced by near ones, and blur again."""
    x, (height, width, channels) = levels(blurred(x, sigma)) / 255.0, x.shape[1:]
    for _ in range(round(rounds)):
        sources = _sources(draws, height, width, round(shift))
        pixels = tf.gather(tf.reshape(x, (-1, height * width, channels)), sources, batch_dims=1)
        x = tf.reshape(pixels, tf.shape(x))
        x.set_shape((None, height, width, channels))
    return blurred(x, sigma)


def _sources(draws: Draws, height: int, width: int, shift: int) -> tf.Tensor:
    """int32 (N, H · W): the pixel that each is a copy of.

    The published sets go from the last pixel to the first, but for those near the border, and copy to each the present
    value of one that is from -shift to shift - 1 rows and columns away.  So a pixel that was replaced before hands on
    what it is a copy of.
    """
    at = np.arange(height * width).reshape(height, width)
    replaced = np.zeros((height, width), bool)
    replaced[shift + 1 : height - shift + 1, shift + 1 : width - shift + 1] = True
    steps = tf.cast(tf.floor(draws.uniform((2, height, width), -shift, shift)), tf.int32)
    steps = tf.clip_by_value(steps, -shift, shift - 1) * replaced.astype(np.int32)
    source = tf.reshape(at + steps[:, 0] * width + steps[:, 1], (-1, height * width))
    at, replaced = tf.constant(at.reshape(-1), tf.int32), tf.constant(replaced.reshape(-1))
    goes_on = replaced & (source > at) & tf.gather(replaced, source)
    for _ in range(_CHAIN):
        further, further_on = (tf.gather(tensor, source, batch_dims=1) for tensor in (source, goes_on))
        source, goes_on = tf.where(goes_on, further, source), goes_on & further_on
    return source
