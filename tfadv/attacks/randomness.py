"""Random numbers of an image: they depend on the seed and the image's number, and not on its batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# What numbers are drawn for.
START, TARGET, QUERY, SAMPLE, KEY, ORDER = range(6)
_MASK = 2**64 - 1
_LOW = 2**32 - 1


def drawn(
    draw: Callable[[np.random.Generator], np.ndarray], seed: int, stream: int, numbers: tf.Tensor, rounds: np.ndarray
) -> np.ndarray:
    """What `draw` returns for each image, from a random generator of its own.

    Images are then independent of each other, as intervals of accuracies assume.

    Args:
      draw: takes a generator; returns an array of the same shape each time.
      seed: any int.
      stream: what the numbers are for, such as `START`.
      numbers: int64 (N,), the numbers of the images.
      rounds: int (N,), the restart of each.

    Returns:
      (N, …).
    """
    return np.stack([draw(generator) for generator in generators(seed, stream, numbers, rounds)])


def generators(
    seed: int, stream: int, numbers: np.ndarray | tf.Tensor, rounds: np.ndarray
) -> list[np.random.Generator]:
    """The random generator of each image; arguments as in `drawn`."""
    key = np.array([seed & _MASK, stream], np.uint64)
    counters = np.zeros((len(rounds), 4), np.uint64)  # the generator counts up in the first of the four
    counters[:, 2], counters[:, 3] = numbers, rounds
    return [np.random.Generator(np.random.Philox(key=key, counter=counter)) for counter in counters]


def keys(seed: int, numbers: tf.Tensor, rounds: np.ndarray) -> tf.Tensor:
    """int64 (N,), one key per image, from which `uniform` draws inside a compiled step; arguments as in `drawn`."""
    return tf.constant(drawn(lambda generator: np.asarray(generator.integers(2**32)), seed, KEY, numbers, rounds))


def fold(key: tf.Tensor, number: Any) -> tf.Tensor:
    """New keys, in the shape of `key`, for a number >= 0 such as that of a step; with or without XLA the same."""
    return _mixed(tf.bitwise.bitwise_xor(key, _mixed(tf.cast(number, tf.int64) + 1)))


def uniform(key: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Numbers that depend on the key alone, which TensorFlow's generators do not offer for each row of a batch.

    Args:
      key: int64 (N,); other numbers need another key, which is not folded further.
      shape: of the numbers of one key.

    Returns:
      float32 (N, *shape), uniform in [0, 1).
    """
    bits = fold(key[:, None], tf.range(math.prod(shape), dtype=tf.int64))
    return tf.reshape(tf.cast(_shifted(bits, 8), tf.float32) * 2.0**-24, (-1, *shape))


def _mixed(x: tf.Tensor) -> tf.Tensor:
    """A permutation of the whole numbers below 2³² in which each bit of the result depends on all bits of x."""
    for _ in range(2):  # the product is below 2⁵⁹
        x = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(x, _shifted(x, 16)) * 0x45D9F3B, _LOW)
    return tf.bitwise.bitwise_xor(x, _shifted(x, 16))


def _shifted(x: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(x, tf.constant(bits, tf.int64))
