"""Random numbers of an image: they depend on the seed and the image's number, and not on its batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

# What numbers are drawn for.
START, TARGET, QUERY, SAMPLE, ORDER = range(5)
_MASK = 2**64 - 1


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
