"""Norms that limit an attack: the size of a perturbation, steepest ascent, projection and random starts.

Images are float32 (N, H, W, C); eps is a number or one per image, (N, 1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.errors import check_name

_PIXELS = (1, 2, 3)
_HALVINGS = 30  # of an interval, to the precision of float32
L1_SHARE = 0.05  # of the values of an image that move in one step in L1, unless an attack adapts it


def choose(condition: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    """`tf.where` for images, without its slow way through tensors of four dimensions on a CPU.

    Args:
      condition: bool, one for all images, (); one per image, (N,); or of a shape that broadcasts to that of the images.
      yes, no: of one type, (N, H, W, C).
    """
    condition = tf.convert_to_tensor(condition)
    if condition.shape.rank > 1 and condition.shape[1:] != yes.shape[1:]:
        condition = tf.broadcast_to(condition, tf.shape(yes))
    return tf.raw_ops.Select(condition=condition, x=yes, y=no)


def column(v: tf.Tensor) -> tf.Tensor:
    """One value per image, (N,), as (N, 1, 1, 1), which broadcasts over its pixels."""
    return v[:, None, None, None]


class _Norm:
    """What limits an attack."""

    steepest_ascent: Any
    project: Any

    @classmethod
    def ascend(
        cls, at: tf.Tensor, gradient: tf.Tensor, size: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: Any, high: Any
    ) -> tf.Tensor:
        """The images after a step of this size, in the norm, in the direction of steepest ascent; see `project`."""
        return cls.project(at + size * cls.steepest_ascent(gradient), x, eps, low, high)


class Linf(_Norm):
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


class L2(_Norm):
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
        return d * tf.math.divide_no_nan(_radius(x, seed), L2.norm(d))


class L1(_Norm):
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
    def steepest_ascent(
        gradient: tf.Tensor, share: float | tf.Tensor = L1_SHARE, free: tf.Tensor | None = None
    ) -> tf.Tensor:
        """A direction of norm 1: equal steps along the signs of the largest values of the gradient.

        A linear function rises most along the one largest value; but there the pixel soon reaches its bound, and one
        pixel a step is slow.  Attacks move a share of the values (Tramèr & Boneh 2019,
        https://arxiv.org/abs/1904.13000), or adapt it (`APGD`).

        Args:
          gradient: float32 (N, H, W, C).
          share: of the H · W · C values, in [0, 1], a number or float32 (N,); 0 means the largest one alone.
          free: bool (N, H, W, C), which values count; None means all.

        Returns:
          float32 (N, H, W, C), of norm 1 in the values that count; more of them move where some are equally large.
        """
        gradient = finite(gradient)
        size = tf.abs(gradient if free is None else choose(free, gradient, tf.zeros_like(gradient)))
        number = tf.maximum(tf.floor(share * tf.cast(tf.reduce_prod(tf.shape(size)[1:]), tf.float32)), 1.0)
        number = tf.reshape(number * tf.ones_like(size[:, 0, 0, 0]), (-1, 1, 1, 1))

        def above(limit: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(size > limit, tf.float32), _PIXELS, keepdims=True)

        below, _ = _halved(lambda limit: above(limit) < number, Linf.norm(size))
        direction = choose(tf.abs(gradient) > below, tf.sign(gradient), tf.zeros_like(gradient))
        return tf.math.divide_no_nan(direction, above(below))

    @classmethod
    def ascend(
        cls, at: tf.Tensor, gradient: tf.Tensor, size: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: Any, high: Any
    ) -> tf.Tensor:
        """As `Linf.ascend`; pixels at the bound that they move to do not count in the share that moves.

        They move along all the same, beyond the bound, so that the projection leaves them there.
        """
        free = tf.where(gradient > 0, at < high, at > low)
        return cls.project(at + size * cls.steepest_ascent(gradient, free=free), x, eps, low, high)

    @staticmethod
    def project(z: tf.Tensor, x: tf.Tensor, eps: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        """The image nearest to z, in L2, that is within eps of x and within [low, high], where x is.

        All changes shrink by the same θ, but not beyond 0, and are then clipped (Croce & Hein 2021,
        https://arxiv.org/abs/2103.01208).  The θ of the ball alone would leave a part of eps unused.
        θ is found by halving an interval, which takes less time than sorting all changes.
        """
        d = z - x
        size, room = tf.abs(d), tf.maximum(choose(d > 0, high - x, x - low), 0.0)

        def shrunk(theta: tf.Tensor) -> tf.Tensor:
            return tf.minimum(tf.maximum(size - theta, 0.0), room)

        fits = L1.norm(shrunk(0.0)) <= eps
        _, theta = _halved(lambda theta: L1.norm(shrunk(theta)) <= eps, tf.where(fits, 0.0, Linf.norm(d)))
        return tf.clip_by_value(x + tf.sign(d) * shrunk(theta), low, high)

    @staticmethod
    def sample(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """float32, uniform in the ball of radius 1; `shape` is (H, W, C)."""
        d = generator.standard_exponential(shape, np.float32)
        radius = generator.random() ** (1 / d.size)
        return np.where(generator.random(shape) < 0.5, -d, d) * np.float32(radius / d.sum())

    @staticmethod
    def draw(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """As `sample` for each image of x (N, H, W, C), inside a compiled step; seed int64 (2,)."""
        u = tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)
        d = -tf.sign(u) * tf.math.log(tf.maximum(1.0 - tf.abs(u), 1e-30))  # of exponential size
        return d * tf.math.divide_no_nan(_radius(x, seed), L1.norm(d))


class L0:
    """The number of values of the array H · W · C that change."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return tf.reduce_sum(tf.cast(d != 0, tf.float32), _PIXELS, keepdims=True)


class Pixels:
    """The number of pixels that change, in one channel or several."""

    @staticmethod
    def norm(d: tf.Tensor) -> tf.Tensor:
        """float32 (N, 1, 1, 1)."""
        return L0.norm(tf.cast(tf.reduce_any(d != 0, axis=3, keepdims=True), tf.float32))


NORMS: dict[str, Any] = {"linf": Linf, "l2": L2, "l1": L1}  # in which attacks and defenses are limited
DENSE = ("linf", "l2")  # of attacks and defenses whose steps change all pixels
DISTANCES: dict[str, Any] = {**NORMS, "l0": L0, "pixels": Pixels}  # in which changes may be measured
COUNTS = {"l0": "values", "pixels": "pixels"}  # norms of whole numbers, and what they count


def get_norm(name: str) -> Any:
    """`Linf`, `L2`, `L1`, `L0` or `Pixels` by name; raises UserError where the name is unknown."""
    check_name("norm", name, DISTANCES)
    return DISTANCES[name]


def _halved(holds: Callable[[tf.Tensor], tf.Tensor], most: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The ends of a tiny interval, float32 (N, 1, 1, 1): a condition does not hold at the first, but at the second.

    Args:
      holds: function of float32 (N, 1, 1, 1), bool (N, 1, 1, 1): False from 0 to some limit, and True above it.
      most: float32 (N, 1, 1, 1), where it is True.
    """

    def halve(i: tf.Tensor, least: tf.Tensor, most: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        middle = (least + most) / 2
        found = holds(middle)
        return i + 1, tf.where(found, least, middle), tf.where(found, middle, most)

    return tf.while_loop(lambda i, *_: i < _HALVINGS, halve, (0, tf.zeros_like(most), most))[1:]


def _radius(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Distances from the centre of points that are uniform in balls of radius 1, (N, 1, 1, 1); arguments of `draw`."""
    share = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), tf.random.experimental.stateless_fold_in(seed, 0))
    return share ** (1 / tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32))


def finite(gradient: tf.Tensor) -> tf.Tensor:
    """The gradient with 0 in place of NaN, so that a pixel stays instead of becoming NaN, and limited to ±1e30."""
    return tf.clip_by_value(choose(tf.math.is_nan(gradient), tf.zeros_like(gradient), gradient), -1e30, 1e30)
