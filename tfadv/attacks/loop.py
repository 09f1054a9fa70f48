"""Loops in which only unbroken images go on.

Outside XLA a broken image leaves the batch, inside the graph, and costs no
gradient any more.  XLA knows only fixed shapes: there it stays, what becomes
of it is ignored, and the loop ends with the last unbroken one.

A score says how well an image is attacked, lower is better: -inf is broken.
"""

import math

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient

BROKEN = -math.inf
UNBROKEN = math.inf


def score(broken):
    """float32 (N,) from bool (N,)."""
    return tf.where(broken, BROKEN, UNBROKEN)


def steps(step, last, state, number, owners, alive, *, compact):
    """Repeats a step; an image leaves when the step says it is done.

    Args:
      step: function of (i, *state) → (state, images, scores, done (N',) bool); must treat each image by itself.
      last: function of the final state → (images, scores) of the images that never left.
      state: tuple of tensors, images first; `state[0]` is float32 (N, H, W, C).
      number: int32 (), how many steps.
      owners: int64 (N,): where one of several with the same number is done, all of them leave.  Ignored by XLA.
      alive: bool (N,); others are not worked on, and what is returned for them means nothing.  All True if `compact`.
      compact: bool; False under XLA.

    Returns:
      (images (N, H, W, C), scores (N,), int32 the images that went through a step, counted at each,
      int32 the images that went through `last`).
    """
    n = tf.shape(state[0])[0]

    def body(i, visits, rows, alive, result, state):
        visits += tf.size(rows)
        state, *now, done = step(i, *state)
        done = done & alive
        if not compact:
            return i + 1, visits, rows, alive & ~done, _where(done, now, result), state

        def leave():
            goes, of = tf.where(done)[:, 0], tf.gather(owners, rows)
            beaten = tf.scatter_nd(tf.gather(of, goes)[:, None], tf.ones_like(goes), [tf.reduce_max(of) + 1])
            stays = tf.where(tf.gather(beaten, of) == 0)[:, 0]
            left = _scatter(result, tf.gather(rows, goes), _rows(now, goes))
            return _rows(rows, stays), _rows(alive, stays), left, _rows(state, stays)

        rows, alive, result, state = tf.cond(tf.reduce_any(done), leave, lambda: (rows, alive, result, state))
        return i + 1, visits, rows, alive, result, state

    result = tf.zeros_like(state[0]), tf.fill([n], UNBROKEN)
    _, visits, rows, alive, result, state = _loop(
        lambda i, _, rows, alive, *__: (i < number) & tf.reduce_any(alive),
        body,
        (0, 0, tf.range(n), alive, result, tuple(state)),
    )
    if not compact:
        return *_where(alive, last(*state), result), visits, n
    nobody = state[0], tf.zeros(tf.shape(rows))  # oneDNN's convolutions can't do without an image
    remaining = tf.cond(tf.size(rows) > 0, lambda: last(*state), lambda: nobody)
    return *_scatter(result, rows, remaining), visits, tf.size(rows)


def rounds(attempt, number, x, active, goal, capacity, *, compact):
    """Repeats a whole attack on the images whose score is still above the goal, and keeps the best of each.

    Where few images are left, several rounds go on at the same time, each with a
    copy of the image: a batch of one costs almost as much as a batch of eight.

    Args:
      attempt: function of (rounds, rows, alive) → (images, scores, gradients, forwards): attacks the rows of x named,
        int64 (N',), each in the round named, int32 (N',); under XLA the rows are all, and only the `alive` count.
      number: int32 (), how many rounds.
      x: float32 (N, H, W, C), what is returned for an image that no round has scored below inf.
      active: bool (N,), the images to attack.
      goal: float32 (), the score that is good enough.
      capacity: int32 (), how many copies may go on at the same time.
      compact: bool; False under XLA.

    Returns:
      (images (N, H, W, C), scores (N,), gradients, forwards): the two numbers are int32 totals over all images.
    """

    def body(r, active, gradients, forwards, best):
        rows = tf.where(active)[:, 0] if compact else tf.range(tf.size(active, tf.int64))
        at_once = tf.clip_by_value(capacity // tf.size(rows), 1, number - r) if compact else 1
        copies = tf.repeat(rows, at_once)
        which = r + tf.tile(tf.range(at_once), [tf.size(rows)])
        images, scores, more_gradients, more_forwards = attempt(which, copies, tf.gather(active, copies))
        scores = tf.reshape(scores, (-1, at_once))
        first = tf.range(tf.size(rows)) * at_once + tf.argmin(scores, axis=1, output_type=tf.int32)
        now, before = (tf.gather(images, first), tf.reduce_min(scores, axis=1)), _rows(best, rows)
        best = _scatter(best, rows, _where(tf.gather(active, rows) & (now[1] < before[1]), now, before))
        return r + at_once, active & (best[1] > goal), gradients + more_gradients, forwards + more_forwards, best

    _, _, gradients, forwards, best = _loop(
        lambda r, active, *_: (r < number) & tf.reduce_any(active),
        body,
        (0, active, 0, 0, (x, tf.fill(tf.shape(x)[:1], UNBROKEN))),
    )
    return *best, gradients, forwards


def over_sizes(attack, model, x, y, sizes, targeted, cost=None):
    """Runs an attack for eps ascending; what broke an image at one eps stands for all larger ones.

    Args:
      attack: function of (logits (N, K), active (N,), eps ()) → (images, scores, gradients, forwards).
      model, x, y, sizes, targeted: as an attack takes them, checked.
      cost: `Cost` or None.

    Returns:
      float32 (E, N, H, W, C), in the order of `sizes`.
    """
    logits = gradient.compiled_logits(model, x, jit_compile=gradient.xla())
    images, active, found = x, ~gradient.is_broken(logits, y, targeted), {}
    if cost is not None:
        cost.add(forwards=len(y))
    for k in np.argsort(sizes, kind="stable"):
        made, scores, gradients, forwards = attack(logits, active, sizes[k])
        broken = active & (scores <= BROKEN)
        images = tf.where(broken[:, None, None, None], made, images)
        active &= ~broken
        found[k] = images
        if cost is not None:
            cost.add(gradients=gradients, forwards=forwards)
    return tf.stack([found[k] for k in range(len(found))])


def _loop(condition, body, variables):
    """`tf.while_loop` in which the number of images may change."""
    open_ = tf.nest.map_structure(lambda t: tf.TensorShape([None, *tf.convert_to_tensor(t).shape[1:]]), variables)
    shapes = tf.nest.map_structure(
        lambda t, shape: shape if tf.convert_to_tensor(t).shape.rank else tf.TensorShape([]), variables, open_
    )
    return tf.while_loop(condition, body, variables, shape_invariants=shapes)


def _rows(tensors, rows):
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), tensors)


def _scatter(tensors, rows, values):
    return tuple(tf.tensor_scatter_nd_update(t, rows[:, None], v) for t, v in zip(tensors, values))


def _where(chosen, yes, no):
    def one(a, b):
        return tf.where(tf.reshape(chosen, [-1] + [1] * (b.shape.rank - 1)), a, b)

    return tuple(one(a, b) for a, b in zip(yes, no))
