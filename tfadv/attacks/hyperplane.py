"""The shortest path from an image to a hyperplane within the box of valid pixels: the projection that FAB uses."""

from __future__ import annotations

import tensorflow as tf

from tfadv.attacks.norms import choose

_PIXELS = (1, 2, 3)
_MAX_ITERATIONS = 20  # Newton steps; five are usual
_TOLERANCE = 1e-5  # of the distance to the hyperplane


def project_onto_hyperplane(
    x: tf.Tensor, w: tf.Tensor, c: tf.Tensor, low: tf.Tensor, high: tf.Tensor, norm: str
) -> tf.Tensor:
    """The smallest d with Σ w·d = c and low <= x + d <= high, or the d that comes nearest to c where none reaches it.

    Such a d moves pixels in the direction sign(w c), at most by room, their distance from the bound.  In L1, they move
    one after the other, those of the largest |w| first.  In the other norms, every pixel moves by min(λ · speed, room):
    speed is 1 in L-infinity and |w| in L2.  Σ w·d is a concave, piecewise linear function of λ, so that Newton's method
    from λ = 0 approaches the solution from below and reaches it in finitely many steps, without the sorting of all
    pixels that Croce & Hein 2019 (https://arxiv.org/abs/1907.02044, appendix) describe.

    Args:
      x: float32 (N, H, W, C).
      w: float32 (N, H, W, C), normal vectors.
      c: float32 (N, 1, 1, 1).
      low, high: float32 (), the least and greatest value of a pixel.
      norm: "linf", "l2" or "l1", the norm of d that is minimised.

    Returns:
      float32 (N, H, W, C).
    """
    scale = tf.reduce_max(tf.abs(w), _PIXELS, keepdims=True)  # squares of tiny gradients would be 0
    w, c = tf.math.divide_no_nan(w, scale), tf.math.divide_no_nan(c, scale)
    direction, gain, c = tf.sign(w) * tf.sign(c), tf.abs(w), tf.abs(c)
    room = choose(direction > 0, high - x, x - low)
    if norm == "l1":
        return direction * _largest_first(gain, room, c)
    speed = tf.sign(gain) if norm == "linf" else gain
    rate = gain * speed

    def newton(i, length, _):
        distance = length * speed
        missing = c - tf.reduce_sum(gain * tf.minimum(distance, room), _PIXELS, keepdims=True)
        slope = tf.reduce_sum(rate * tf.cast(distance < room, tf.float32), _PIXELS, keepdims=True)
        more = tf.where(missing > _TOLERANCE * c, tf.math.divide_no_nan(missing, slope), 0.0)
        return i + 1, length + more, tf.reduce_any(more > 0)

    _, length, _ = tf.while_loop(lambda i, _, moves: moves & (i < _MAX_ITERATIONS), newton, (0, tf.zeros_like(c), True))
    return direction * tf.minimum(length * speed, room)


def _largest_first(gain: tf.Tensor, room: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """How far each pixel moves, float32 (N, H, W, C): by its room, those of the largest gain first, until c is gained.

    Pixels of the last gain that is needed move by the same share of their room.  Arguments as in
    `project_onto_hyperplane`, none negative.
    """
    flat, most = (tf.shape(gain)[0], -1), gain * room
    order = tf.argsort(tf.reshape(gain, flat), axis=1, direction="DESCENDING")
    sums = tf.cumsum(tf.gather(tf.reshape(most, flat), order, batch_dims=1), axis=1)
    reached = tf.reduce_sum(tf.cast(sums[:, :-1] <= c[:, :, 0, 0], tf.int32), axis=1, keepdims=True)
    last = tf.gather(tf.reshape(gain, flat), tf.gather(order, reached, batch_dims=1), batch_dims=1)[:, :, None, None]

    def gained(pixels: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(pixels, most, 0.0), _PIXELS, keepdims=True)

    share = tf.math.divide_no_nan(c - gained(gain > last), gained(gain == last))
    return tf.where(gain > last, room, tf.where(gain == last, tf.clip_by_value(share, 0.0, 1.0) * room, 0.0))
