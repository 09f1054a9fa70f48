"""What several corruptions are made of: random numbers of each image, and linear operations on batches of images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

STREAMS = 2**16  # of random numbers that each image has


class Draws:
    """Random numbers of N images, each tensor new; they depend on the seed and the image's number only."""

    def __init__(self, seed: tf.Tensor, numbers: tf.Tensor, first: int) -> None:
        """Counts streams of random numbers from the `first` on.

        Args:
          seed: int64 ().
          numbers: int64 (N,), the numbers of the images.
          first: below `STREAMS`.
        """
        self._seed, self._numbers, self._stream = seed, numbers, first

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """float32 (N, *shape), at least `low` and below `high`."""
        return low + (high - low) * self._drawn(tf.random.stateless_uniform, shape)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        """float32 (N, *shape), of mean 0 and variance 1."""
        return self._drawn(tf.random.stateless_normal, shape)

    def _drawn(self, draw: Callable[..., tf.Tensor], shape: tuple[int, ...]) -> tf.Tensor:
        self._stream += 1
        return _compiled(draw, shape)(self._seed, self._numbers * STREAMS + self._stream)


@functools.lru_cache(maxsize=64)
def _compiled(draw: Callable[..., tf.Tensor], shape: tuple[int, ...]) -> Callable[..., tf.Tensor]:
    """A function of (seed int64 (), streams int64 (N,)) that draws for one image after the other."""

    def drawn(seed: tf.Tensor, streams: tf.Tensor) -> tf.Tensor:
        keys = tf.stack([tf.fill(tf.shape(streams), seed), streams], axis=1)
        return tf.map_fn(lambda key: draw(shape, key, alg="philox"), keys, fn_output_signature=tf.TensorSpec(shape))

    signature = [tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int64)]
    # TensorFlow tells functions apart by their code, see `PerModel`; a partial has none.
    return tf.function(functools.partial(drawn), input_signature=signature, autograph=False)


def levels(x: tf.Tensor) -> tf.Tensor:
    """The levels of images in [0, 1], whole numbers from 0 to 255 as float32, cut off as the published sets are."""
    # Without the thousandth, the error of float32 would take whole levels down by one.
    return tf.floor(255.0 * tf.clip_by_value(x, 0.0, 1.0) + 1e-3)


def nearest_levels(x: tf.Tensor) -> tf.Tensor:
    """The nearest levels of images in [0, 1], whole numbers from 0 to 255 as float32."""
    return tf.floor(255.0 * tf.clip_by_value(x, 0.0, 1.0) + 0.5)


def along(x: tf.Tensor, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
    """A linear operation along the height, then one along the width.

    Args:
      x: float32 (N, H, W, C).
      rows: (A, H), the weights of the rows of the image in each row of the result.
      columns: (B, W), the same of the columns.

    Returns:
      float32 (N, A, B, C).
    """
    return across(down(x, rows), columns)


def down(x: tf.Tensor, rows: np.ndarray) -> tf.Tensor:
    """The first half of `along`."""
    height, width, channels = x.shape[1:]
    x = tf.matmul(tf.constant(rows, tf.float32), tf.reshape(x, (-1, height, width * channels)))
    return tf.reshape(x, (-1, len(rows), width, channels))


def across(x: tf.Tensor, columns: np.ndarray) -> tf.Tensor:
    """The second half of `along`."""
    return tf.transpose(down(tf.transpose(x, (0, 2, 1, 3)), columns), (0, 2, 1, 3))


def matrix(operation: Callable[..., np.ndarray], n: int, **options: Any) -> np.ndarray:
    """The matrix (A, n) of a linear operation of SciPy along the first axis: what it makes of the unit vectors."""
    return operation(np.eye(n), **options)


def blurred(x: tf.Tensor, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> tf.Tensor:
    """Gaussian blur as by `scipy.ndimage.gaussian_filter`; the standard deviation is in pixels."""
    from scipy.ndimage import gaussian_filter1d

    options = {"sigma": sigma, "axis": 0, "mode": mode, "truncate": truncate}
    return along(x, *(matrix(gaussian_filter1d, n, **options) for n in x.shape[1:3]))


def zoomed(x: tf.Tensor, factors: Sequence[float] | np.ndarray) -> tf.Tensor:
    """The sum of the middles of images, magnified to their size by linear interpolation as by `scipy.ndimage.zoom`."""
    height, width, channels = x.shape[1:]
    rows = np.stack([zoom_matrix(height, factor) for factor in factors])
    columns = np.concatenate([zoom_matrix(width, factor) for factor in factors], axis=1)
    x = tf.matmul(tf.constant(rows, tf.float32), tf.reshape(x, (-1, 1, height, width * channels)))
    x = tf.transpose(tf.reshape(x, (-1, len(factors), height, width, channels)), (0, 1, 3, 2, 4))
    x = tf.reshape(x, (-1, len(factors) * width, height, channels))  # one product sums over the factors
    return tf.transpose(down(x, columns), (0, 2, 1, 3))


def zoom_matrix(n: int, factor: float) -> np.ndarray:
    """The matrix (n, n) of one magnification along an axis of n pixels."""
    from scipy.ndimage import zoom

    kept = int(np.ceil(n / factor))
    start, whole = (n - kept) // 2, matrix(zoom, kept, zoom=(factor, 1), order=1)
    extra = (len(whole) - n) // 2
    return np.pad(whole[extra : extra + n], ((0, 0), (start, n - kept - start)))


def convolved(x: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
    """Images (N, H, W, C) convolved with a kernel (2r + 1, 2r + 1); the images are mirrored at their borders."""
    radius, (height, width) = len(kernel) // 2, x.shape[1:3]
    for axis, n in ((1, height), (2, width)):
        x = tf.gather(x, np.pad(np.arange(n), radius, "reflect"), axis=axis)
    size = list(x.shape[1:3])
    spectrum = tf.signal.rfft2d(tf.transpose(x, (0, 3, 1, 2))) * tf.constant(np.fft.rfft2(kernel, size), tf.complex64)
    whole = tf.transpose(tf.signal.irfft2d(spectrum, size), (0, 2, 3, 1))
    return whole[:, 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]


def moved(x: tf.Tensor, angle: tf.Tensor, radius: float, sigma: float) -> tf.Tensor:
    """Motion blur as ImageMagick computes it; pixels outside of the image are those of its border.

    Args:
      x: float32 (N, H, W, C).
      angle: float32 (N,), in degrees.
      radius: of the kernel in pixels, which has 2 · radius + 1 weights.
      sigma: standard deviation of the half Gaussian whose weights these are, in pixels.
    """
    weights = np.exp(-np.square(np.arange(2 * round(radius) + 1)) / (2 * sigma**2))
    weights = tf.constant(weights / weights.sum(), tf.float32)
    (height, width), radians = x.shape[1:3], angle[:, None] * (np.pi / 180)
    down, right = tf.sin(radians), tf.cos(radians)

    def add(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The next weight; one after the other, because of the memory."""
        rows, columns = (tf.cast(tf.math.ceil(tf.cast(i, tf.float32) * step - 0.5), tf.int32) for step in (down, right))
        rows = tf.clip_by_value(tf.range(height) + rows, 0, height - 1)
        columns = tf.clip_by_value(tf.range(width) + columns, 0, width - 1)
        shifted = tf.gather(tf.gather(x, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
        return i + 1, total + weights[i] * shifted

    return tf.while_loop(lambda i, _: i < weights.shape[0], add, (0, tf.zeros_like(x)), parallel_iterations=1)[1]
