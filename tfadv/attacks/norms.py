"""Norms that limit an attack: the size of a perturbation, steepest ascent, projection and random starts.

Images are float32 (N, H, W, C); eps is a number or one per image, (N, 1, 1, 1).
"""

from __future__ import annotations

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


NORMS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}


def get_norm(name: str) -> type[Linf] | type[L2]:
    """`Linf` or `L2` by name; raises UserError where the name is unknown."""
    check_name("norm", name, NORMS)
    return NORMS[name]


def finite(gradient: tf.Tensor) -> tf.Tensor:
    """The gradient with 0 in place of NaN, so that a pixel stays instead of becoming NaN, and limited to ±1e30."""
    return tf.clip_by_value(tf.where(tf.math.is_nan(gradient), 0.0, gradient), -1e30, 1e30)
