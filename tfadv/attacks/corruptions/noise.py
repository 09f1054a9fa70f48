"""Noise: functions of images float32 (N, H, W, C) in [0, 1], constants, and the images' random numbers."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfadv.attacks.corruptions.operations import Draws, nearest_levels


def gaussian_noise(x: tf.Tensor, draws: Draws, sigma: float) -> tf.Tensor:
    """Normal noise."""
    return x + sigma * draws.normal(tuple(x.shape[1:]))


def shot_noise(x: tf.Tensor, draws: Draws, photons: float) -> tf.Tensor:
    """Poisson noise of few photons; a pixel counts as the nearest of 256 levels."""
    from scipy.special import pdtr

    most = math.ceil(photons)  # more photons are white, too
    all_levels = np.arange(256.0)[:, None]
    shares = pdtr(np.arange(most), all_levels / 255 * photons)  # of counts up to this one
    table = all_levels + np.concatenate([shares, np.ones_like(all_levels)], axis=1)
    level = nearest_levels(x)
    wanted = tf.cast(level, tf.float64) + tf.cast(draws.uniform(tuple(x.shape[1:])), tf.float64)
    place = tf.searchsorted(tf.constant(table.reshape(-1)), tf.reshape(wanted, (-1,)), side="right")
    return (tf.reshape(tf.cast(place, tf.float32), tf.shape(x)) - level * (most + 1)) / photons


def impulse_noise(x: tf.Tensor, draws: Draws, share: float) -> tf.Tensor:
    """Salt and pepper: values, each of one channel, become 0 or 1."""
    u = draws.uniform(tuple(x.shape[1:]))
    return tf.where(u < share / 2, 0.0, tf.where(u < share, 1.0, x))


def speckle_noise(x: tf.Tensor, draws: Draws, sigma: float) -> tf.Tensor:
    """Normal noise in proportion to the pixel."""
    return x + x * sigma * draws.normal(tuple(x.shape[1:]))
