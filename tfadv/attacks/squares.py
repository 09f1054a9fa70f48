"""The perturbations of Square Attack: which square a query changes, and how (Andriushchenko et al. 2019).

Those in L1 follow auto-attack (https://github.com/fra31/auto-attack), which Croce & Hein 2021
(https://arxiv.org/abs/2103.01208) use.

A query has random numbers, uniform in [0, 1): the position of the first square
(2), of the second (2), the orientation of its bumps (1), and a sign for each channel.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfadv.attacks.norms import L2, choose, get_norm

FRACTION = 0.8  # p: the fraction of the pixels in the first squares
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries


def side_lengths(queries: int, height: int, width: int, least: int) -> np.ndarray:
    """int32 (queries,): the side of each query's square, √(p · H · W); p is halved after certain queries."""
    p = FRACTION / 2.0 ** np.searchsorted(HALVED_AFTER, np.arange(queries))
    side = np.maximum(np.round(np.sqrt(p * height * width)), least).astype(np.int32)
    if least > 1:
        side += side % 2 == 0  # a bump has a centre
    return np.minimum(side, min(height, width))


def bump(height: int, width: int, norm: str) -> np.ndarray:
    """float64 (height, width) of norm 1: a pyramid, 1 + 1/4 + 1/9 + ... summed from the rim to the centre (eq. 4).

    In L1, the fourth powers 1 + 1/16 + 1/81 + ... make it steeper.
    """
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    to_centre = np.maximum(rows[:, None], columns)
    inverse_powers = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** (4 if norm == "l1" else 2)
    return _of_norm_1(np.cumsum(inverse_powers[::-1])[::-1][to_centre], norm)


def bumps(side: int, norm: str) -> np.ndarray:
    """float32 (2, side, side) of norm 1: a positive bump above a negative one, and the same transposed."""
    half = side // 2
    both = np.concatenate([bump(half, side, norm), -bump(side - half, side, norm)]) if half else -np.ones((1, 1))
    both = _of_norm_1(both, norm)
    return np.stack([both, both.T]).astype(np.float32)


def padded_bumps(sides: np.ndarray, height: int, width: int, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """The bumps of all sides that occur, in a corner of an image, and which of them each query uses.

    Returns:
      (float32 (S, 2, H, W), int32 (queries,)).
    """
    distinct, which = np.unique(sides, return_inverse=True)
    padded = [np.pad(bumps(side, norm), ((0, 0), (0, height - side), (0, width - side))) for side in distinct]
    return np.stack(padded), which.astype(np.int32)


def stripes(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """float32 (H, W, C) of ±1: vertical stripes, a sign for each column and channel; a start in L-infinity."""
    signs = np.where(generator.random((1, *shape[1:])) < 0.5, -1, 1)
    return np.repeat(signs, shape[0], 0).astype(np.float32)


def propose_linf(x: tf.Tensor, best: tf.Tensor, eps: tf.Tensor, side: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Sets a square to x ± eps, with a sign for each channel (algorithm 2)."""
    inside = _window(numbers[:2], side, x.shape[1:])
    return choose(inside, x + eps * tf.broadcast_to(_signs(numbers[5:]), x.shape[1:]), best)


def grid(shape: tuple[int, ...], generator: np.random.Generator, norm: str) -> np.ndarray:
    """float32 (H, W, C): 5 x 5 bumps of random sign and orientation; of norm 1 in L2, each bump of norm 1 in L1."""
    height, width, channels = shape
    side = max(min(height, width) // 5, 1)
    tiles = height // side, width // side
    upright, transposed = (np.tile(pattern, tiles)[:, :, None] for pattern in bumps(side, norm))
    numbers = generator.random((*tiles, 1 + channels))
    numbers = np.repeat(np.repeat(numbers, side, 0), side, 1)
    pattern = np.where(numbers[..., :1] < 0.5, upright, transposed) * np.where(numbers[..., 1:] < 0.5, -1, 1)
    whole, above, before = np.zeros(shape), (height - side * tiles[0]) // 2, (width - side * tiles[1]) // 2
    whole[above : above + len(pattern), before : before + pattern.shape[1]] = pattern
    return (whole if norm == "l1" else _of_norm_1(whole, norm)).astype(np.float32)


def propose_bumps(
    x: tf.Tensor, best: tf.Tensor, eps: tf.Tensor, side: tf.Tensor, numbers: tf.Tensor, pair: tf.Tensor, norm: str
) -> tf.Tensor:
    """Moves the budget of a second square into a bump in the first one (algorithm 3).

    In L1, the new bumps have more than the budget, so that the projection must follow.
    """
    height, width, channels = x.shape[1:]
    power, root = (tf.abs, tf.identity) if norm == "l1" else (tf.square, tf.sqrt)

    def size(d):  # of each channel
        return root(tf.reduce_sum(power(d), (1, 2), keepdims=True))

    first, second = (_window(position, side, x.shape[1:]) for position in (numbers[:2], numbers[2:4]))
    d = best - x
    zeros = tf.zeros_like(d)
    unused = tf.maximum(power(eps) - power(get_norm(norm).norm(d)), 0.0) / channels
    budget = root(unused + power(size(choose(first | second, d, zeros))))
    old = choose(first, d, zeros)
    pattern = tf.where(numbers[4] < 0.5, pair[0], pair[1])
    pattern = tf.roll(pattern, _corner(numbers[:2], side, height, width), (0, 1))[:, :, None]
    new = _signs(numbers[5:]) * pattern + tf.math.divide_no_nan(old, size(old))
    new = budget * tf.math.divide_no_nan(new, size(new))
    if norm == "l1":
        return x + choose(first, channels * new, choose(second, zeros, d))
    return x + eps * L2.steepest_ascent(choose(first, new, choose(second, zeros, d)))


def _of_norm_1(pattern: np.ndarray, norm: str) -> np.ndarray:
    return pattern / (np.abs(pattern).sum() if norm == "l1" else np.linalg.norm(pattern))


def _window(position: tf.Tensor, side: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """bool (H, W, C): inside the square, which lies within the image; `position` is two numbers in [0, 1)."""
    height, width, channels = shape
    top, left = _corner(position, side, height, width)
    rows, columns = tf.range(height) - top, tf.range(width) - left
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
    return tf.repeat(inside[:, :, None], channels, axis=2)


def _corner(position: tf.Tensor, side: tf.Tensor, height: int, width: int) -> list[tf.Tensor]:
    # All positions, as in algorithm 2: auto-attack omits the last, so that it never reaches the last row and column.
    free = tf.cast(tf.stack([height, width]) - side + 1, tf.float32)
    return tf.unstack(tf.cast(position * free, tf.int32))


def _signs(uniform: tf.Tensor) -> tf.Tensor:
    return tf.where(uniform < 0.5, -1.0, 1.0)
