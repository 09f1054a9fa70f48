"""Norms that limit an attack: the size of a perturbation, steepest ascent, projection and random starts.

Images are float32 (N, H, W, C); eps is a number or one per image, (N, 1, 1, 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.errors import check_name

_PIXELS = (1, 2, 3)


class Linf:
    """max |d|: no pixel changes by more than eps."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return tf.reduce_max(tf.abs(d), _PIXELS, keepdims=True)

    @staticmethod
    def dual(gradient: tf.Tensor) -> tf.Tensor:
        """How much a linear function rises at most per unit of the norm: the L1 norm of its gradient, (N, 1, 1, 1)."""
        return L1.norm(gradient)

    @staticmethod
    def steepest_ascent(gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 in which a linear function rises most: the sign."""
        return tf.sign(finite(gradient))

    @staticmethod
    def project(z: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """The image nearest to z that is within eps of x and within [low, high]."""
        return tf.clip_by_value(z, tf.maximum(x - eps, low), tf.minimum(x + eps, high))

    @staticmethod
    def sample(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """float32, uniform in the ball of radius 1; `shape` is (H, W, C)."""
        return 2 * generator.random(shape, np.float32) - 1

    @staticmethod
    def draw(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """As `sample` for each image of x (N, H, W, C), inside a compiled step; seed int64 (2,)."""
        return tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)


class L2:
    """√Σd²: the Euclidean norm."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return tf.sqrt(tf.reduce_sum(tf.square(d), _PIXELS, keepdims=True))

    @staticmethod
    def dual(gradient: tf.Tensor) -> tf.Tensor:
        """As `Linf.dual`: the L2 norm of the gradient."""
        largest = Linf.norm(gradient)  # squares of 1e-30 would be 0
        return largest * L2.norm(tf.math.divide_no_nan(gradient, largest))

    @staticmethod
    def steepest_ascent(gradient: tf.Tensor) -> tf.Tensor:
        """The direction of norm 1 in which a linear function rises most: the gradient's own."""
        gradient = finite(gradient)
        gradient = tf.math.divide_no_nan(gradient, Linf.norm(gradient))  # squares of 1e-30 would be 0
        return tf.math.divide_no_nan(gradient, L2.norm(gradient))

    @staticmethod
    def project(z: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """Moves z along the line to x until it is within eps, then clips it.

        x lies within [low, high], so that clipping brings the image nearer to x.
        """
        d = z - x
        shrink = tf.minimum(1.0, tf.math.divide_no_nan(eps * tf.ones_like(d[:, :1, :1, :1]), L2.norm(d)))
        return tf.clip_by_value(x + d * shrink, low, high)

    @staticmethod
    def sample(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """float32, uniform in the ball of radius 1; `shape` is (H, W, C)."""
        d = generator.standard_normal(shape, np.float32)
        radius = generator.random() ** (1 / d.size)
        return d * np.float32(radius / np.linalg.norm(d))

    @staticmethod
    def draw(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """As `sample` for each image of x (N, H, W, C), inside a compiled step; seed int64 (2,)."""
        d = tf.random.stateless_normal(tf.shape(x), seed)
        of_radius = tf.random.experimental.stateless_fold_in(seed, 0)
        share = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), of_radius)
        dimensions = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
        return d * tf.math.divide_no_nan(share ** (1 / dimensions), L2.norm(d))


class L1:
    """Σ|d|: the sum of all changes."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return tf.reduce_sum(tf.abs(d), _PIXELS, keepdims=True)

    @staticmethod
    def dual(gradient: tf.Tensor) -> tf.Tensor:
        """As `Linf.dual`: the largest value of the gradient."""
        return Linf.norm(gradient)

    @staticmethod
    def project(z: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """The image nearest to z, in L2, that is within eps of x, then clipped, which brings it nearer to x.

        All changes shrink by the same θ, but not beyond 0; sorting finds it (Duchi et al. 2008,
        https://doi.org/10.1145/1390156.1390191).
        """
        d = z - x
        size = tf.abs(d)
        falling = tf.sort(tf.reshape(size, (tf.shape(d)[0], -1)), axis=1, direction="DESCENDING")
        number = tf.range(1, tf.shape(falling)[1] + 1, dtype=tf.float32)
        excess = (tf.cumsum(falling, axis=1) - tf.reshape(eps * tf.ones_like(d[:, :1, :1, :1]), (-1, 1))) / number
        theta = tf.reduce_max(excess, axis=1)  # the number of changes that stay is the one at which it is largest
        shrunk = tf.maximum(size - tf.maximum(theta, 0.0)[:, None, None, None], 0.0)
        return tf.clip_by_value(x + tf.sign(d) * shrunk, low, high)


class L0:
    """The number of values of the array H · W · C that change."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return tf.reduce_sum(tf.cast(d != 0, tf.float32), _PIXELS, keepdims=True)

    @staticmethod
    def project(z: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """Keeps the eps largest changes (of equal ones, the first), then clips."""
        d = z - x
        order = tf.argsort(tf.reshape(tf.abs(d), (tf.shape(d)[0], -1)), axis=1, direction="DESCENDING", stable=True)
        rank = tf.reshape(tf.argsort(order, axis=1), tf.shape(d))
        return tf.clip_by_value(tf.where(tf.cast(rank + 1, tf.float32) <= eps, z, x), low, high)


NORMS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}  # in which attacks and defenses are limited
DISTANCES: dict[str, Any] = {**NORMS, "l1": L1, "l0": L0}  # in which an attack may look for the nearest image


def get_norm(name: str) -> Any:
    """`Linf`, `L2`, `L1` or `L0` by name; raises UserError where the name is unknown."""
    check_name("norm", name, DISTANCES)
    return DISTANCES[name]


def finite(gradient: tf.Tensor) -> tf.Tensor:
    """The gradient with 0 in place of NaN, so that a pixel stays instead of becoming NaN, and limited to ±1e30."""
    return tf.clip_by_value(tf.where(tf.math.is_nan(gradient), 0.0, gradient), -1e30, 1e30)
