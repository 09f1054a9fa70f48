"""The balls an attack may not leave: how far, which way, back inside, somewhere inside.

Images are float32 (N, H, W, C), eps is a number or one an image, (N, 1, 1, 1).
"""

import tensorflow as tf

from tfadv.errors import check_name

_PIXELS = (1, 2, 3)


class Linf:
    """max |d|: every pixel moves by eps at most."""

    @staticmethod
    def size(d):
        """float32 (N, 1, 1, 1)."""
        return tf.reduce_max(tf.abs(d), _PIXELS, keepdims=True)

    @staticmethod
    def ascent(gradient):
        """The direction of size 1 along which a linear function rises most: the sign."""
        return tf.sign(finite(gradient))

    @staticmethod
    def project(z, x, eps, low, high):
        """The image nearest to z that is within eps of x and within [low, high]."""
        return tf.clip_by_value(z, tf.maximum(x - eps, low), tf.minimum(x + eps, high))

    @staticmethod
    def noise(shape, seed):
        """float32 (N, H, W, C), uniform in the ball of radius 1; shape is (N, H, W, C), seed two int."""
        return tf.random.stateless_uniform(shape, _seed(seed), -1.0, 1.0)


class L2:
    """√Σd²: the Euclidean distance."""

    @staticmethod
    def size(d):
        """float32 (N, 1, 1, 1)."""
        return tf.sqrt(tf.reduce_sum(tf.square(d), _PIXELS, keepdims=True))

    @staticmethod
    def ascent(gradient):
        """The direction of size 1 along which a linear function rises most: the gradient's own."""
        gradient = finite(gradient)
        gradient = tf.math.divide_no_nan(gradient, Linf.size(gradient))  # squares of 1e-30 would be 0
        return tf.math.divide_no_nan(gradient, L2.size(gradient))

    @staticmethod
    def project(z, x, eps, low, high):
        """Along the line to x until within eps, then clipped; x lies within [low, high], so that clipping nears x."""
        d = z - x
        shrink = tf.minimum(1.0, tf.math.divide_no_nan(eps * tf.ones_like(d[:, :1, :1, :1]), L2.size(d)))
        return tf.clip_by_value(x + d * shrink, low, high)

    @staticmethod
    def noise(shape, seed):
        """float32 (N, H, W, C), uniform in the ball of radius 1; shape is (N, H, W, C), seed two int."""
        d = tf.random.stateless_normal(shape, _seed(seed))
        radius = tf.random.stateless_uniform((shape[0], 1, 1, 1), _seed(seed)) ** (1 / (shape[1] * shape[2] * shape[3]))
        return radius * d / L2.size(d)


BALLS = {"linf": Linf, "l2": L2}


def ball(norm):
    """`Linf` or `L2` by name; raises UserError where there is none such."""
    check_name("norm", norm, BALLS)
    return BALLS[norm]


def _seed(seed):
    return tf.constant(seed, tf.int64)  # a number of any size


def finite(gradient):
    """The gradient, 0 where it is NaN, so that a pixel stays instead of becoming NaN, and not above 1e30."""
    return tf.clip_by_value(tf.where(tf.math.is_nan(gradient), 0.0, gradient), -1e30, 1e30)
