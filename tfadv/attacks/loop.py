"""Loops over the steps and restarts of an attack, in which only images that are not yet adversarial go on.

The steps run in compiled chunks of about half a second.  Between two
chunks Python runs, so that Ctrl-C is noticed and the state can be saved.

Outside XLA an image that is done leaves the batch, inside the graph, and costs
no further gradients; so no result depends on where a chunk ends.  XLA knows
only fixed shapes: there the image stays, its further results are ignored, and
the loop ends when the last image is done.

A score tells how well an image was attacked, lower is better; -inf is adversarial.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tfadv.attacks.norms import choose
from tfadv.models.compiled import PerModel
from tfadv.models.expectation import Expectation
from tfadv.runtime import compilation

ADVERSARIAL = -math.inf
NOT_ADVERSARIAL = math.inf
SECONDS_PER_CHUNK = 0.5  # half of what is allowed: a chunk may take longer than estimated
# Seconds per image and step, for each model and attack: another chunk costs as much as some steps of few images.
_paces: weakref.WeakKeyDictionary[Any, dict[Any, float]] = weakref.WeakKeyDictionary()
_MAX_GROWTH = 4  # of the number of steps from one chunk to the next


class Resume(Protocol):
    """Where finished and partial units of a call are kept (`tfadv.store.resume.ResumeLog`).

    A unit is one round, or its verification or its repetition in float32.
    """

    def load(self) -> Any:
        """What was saved of the unit that begins, or None."""

    def partial(self, step: int, arrays_fn: Callable[[], list[np.ndarray]]) -> None:
        """Saves the state of the unit after a step, from time to time."""

    def done(self, arrays: list[np.ndarray]) -> None:
        """Saves the result of the unit."""


class Step(NamedTuple):
    """What a step of an attack returns.

    Attributes:
      state: the next state of the attack, a nest of tensors with one row per image.
      images: float32 (M, H, W, C), the result for an image that is done.
      scores: float32 (M,), their scores.
      done: bool (M,), the images that need no further step; with a score of `NOT_ADVERSARIAL`, because more steps would
        find nothing.
    """

    state: Any
    images: tf.Tensor
    scores: tf.Tensor
    done: tf.Tensor


class LoopState(NamedTuple):
    """The state of a loop over steps; N images began and M still go on (M = N under XLA).

    Attributes:
      i: int32 (), steps done.
      visits: int32 (), the sum over these steps of the images that went through them.
      rows: int32 (M,), which of the N images go on.
      active: bool (M,), False where an image is done but stays (under XLA).
      images, scores: float32 (N, H, W, C) and (N,), the results of images that are done.
      state: the state of the attack, with M rows.
    """

    i: tf.Tensor
    visits: tf.Tensor
    rows: tf.Tensor
    active: tf.Tensor
    images: tf.Tensor
    scores: tf.Tensor
    state: Any


class UnitResult(NamedTuple):
    """The result of one round: images, scores, image-steps, and images that went on to the last step's end."""

    images: tf.Tensor
    scores: tf.Tensor
    visits: int
    finished: int


def score(adversarial: tf.Tensor) -> tf.Tensor:
    """float32 (N,) from bool (N,)."""
    return tf.where(adversarial, ADVERSARIAL, NOT_ADVERSARIAL)


def begin(state: Any, active: tf.Tensor) -> LoopState:
    """The state of a loop before its first step; the first tensor of `state` holds the images."""
    images, n = tf.nest.flatten(state)[0], tf.size(active)
    zero = tf.constant(0)
    return LoopState(zero, zero, tf.range(n), active, tf.zeros_like(images), tf.fill([n], NOT_ADVERSARIAL), state)


def advance(
    model: Any, loop: LoopState, owners: tf.Tensor, end: tf.Tensor, inputs: Any, *, attack: Any, compact: bool
) -> LoopState:
    """Repeats `attack.step` until step `end`, or until all images are done.  Plain TensorFlow, compiled below.

    Args:
      model: the model under attack.
      loop: state before.
      owners: int64 (N,), the image that each row is a copy of: where one copy has found something, all copies leave.
      end: int32 ().
      inputs: what all steps share, passed to `attack.step`.
      attack: has a method step(model, inputs, i, state) → `Step`, which must treat each image by itself.
      compact: whether images leave the batch; False under XLA.
    """

    def body(loop):
        visits = loop.visits + tf.size(loop.rows)
        state, images, scores, done = attack.step(model, inputs, loop.i, loop.state)
        # The first step in which a random model is wrong leads to the boundary only, where new passes may be right.
        done = done & loop.active & (not isinstance(model, Expectation))
        loop = loop._replace(i=loop.i + 1, visits=visits, state=state)
        if not compact:
            images, scores = _where(done, (images, scores), (loop.images, loop.scores))
            return (loop._replace(images=images, scores=scores, active=loop.active & ~done),)

        def leave():
            leaving, owner = tf.where(done)[:, 0], tf.gather(owners, loop.rows)
            found = tf.cast(done & (scores < NOT_ADVERSARIAL), tf.int32)
            owner_found = tf.scatter_nd(owner[:, None], found, [tf.reduce_max(owner) + 1])
            staying = tf.where(~done & (tf.gather(owner_found, owner) == 0))[:, 0]
            results = _take((images, scores), leaving)
            images_, scores_ = _scatter((loop.images, loop.scores), tf.gather(loop.rows, leaving), results)
            rows, active, state_ = _take((loop.rows, loop.active, state), staying)
            return loop._replace(rows=rows, active=active, images=images_, scores=scores_, state=state_)

        return (tf.cond(tf.reduce_any(done), leave, lambda: loop),)

    return tf.while_loop(lambda loop: (loop.i < end) & tf.reduce_any(loop.active), body, (loop,))[0]


def finish(model: Any, loop: LoopState, inputs: Any, *, attack: Any, compact: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """The images and scores of all N; `attack.last` decides for those that are not done."""
    images, scores = attack.last(model, inputs, loop.state)
    if compact:
        return _scatter((loop.images, loop.scores), loop.rows, (images, scores))
    return _where(loop.active, (images, scores), (loop.images, loop.scores))


_advance = PerModel(advance)
_finish = PerModel(finish)


def run_unit(
    model: Any,
    attack: Any,
    inputs: Any,
    state: Any,
    steps: int,
    owners: np.ndarray,
    active: np.ndarray,
    resume: Resume | None,
) -> UnitResult:
    """Runs all steps from a state in compiled chunks.

    Args:
      model, inputs, state, owners: see `advance`.
      attack: as `Attack.traced` returns it; has the methods `step` and `last`.
      steps: how many.
      active: bool (N,); the others are not attacked and their results are undefined.  All True outside XLA.
      resume: serves the unit where it is finished, continues it where it is partial, and saves it; or None.
    """
    options: dict[str, Any] = {"attack": attack, "compact": not compilation.use_xla()}
    loop, saved = begin(state, tf.constant(active)), resume.load() if resume else None
    if saved and saved[0] == "done":
        images, scores, visits, finished = saved[1]
        return UnitResult(tf.constant(images), tf.constant(scores), int(visits), int(finished))
    if saved:
        loop = tf.nest.pack_sequence_as(loop, [tf.constant(array) for array in saved[2]])

    paces = _paces.setdefault(model, {})
    i, length = int(loop.i), _first_length(paces.get(attack), len(owners))
    while i < steps and loop.active.numpy().any():
        began, chunk = time.monotonic(), min(length, steps - i)
        loop = _advance(model, loop, owners, i + chunk, inputs, **options)
        i = int(loop.i)  # waits for the result
        seconds = time.monotonic() - began
        length = _next_length(chunk, seconds)
        paces[attack] = seconds / (chunk * max(1, len(loop.rows)))
        if resume:
            resume.partial(i, functools.partial(_arrays, loop))

    finished = len(loop.rows)
    images, scores = loop.images, loop.scores
    if finished:  # oneDNN's convolutions fail on an empty batch
        images, scores = _finish(model, loop, inputs, **options)
    result = UnitResult(images, scores, int(loop.visits), finished)
    if resume:
        resume.done(_arrays(result))
    return result


def _arrays(nest: Any) -> list[np.ndarray]:
    return [np.asarray(tensor) for tensor in tf.nest.flatten(nest)]


def _first_length(pace: float | None, images: int) -> int:
    """Number of steps in the first chunk, from the seconds per image and step of an earlier unit, if there was one."""
    return 1 if pace is None else max(1, int(SECONDS_PER_CHUNK / max(pace * images, 1e-9)))


def _next_length(steps: int, seconds: float) -> int:
    """How many steps the next chunk takes, after one of so many steps took so long."""
    return int(min(max(steps * SECONDS_PER_CHUNK / max(seconds, 1e-9), 1), _MAX_GROWTH * steps))


def run_rounds(
    attempt: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[tf.Tensor, tf.Tensor]],
    number: int,
    x: tf.Tensor,
    active: np.ndarray,
    goal: float,
    capacity: int,
    *,
    compact: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Repeats a whole attack on the images whose score is still above the goal, and keeps the best of each.

    Where few images are left, several rounds run at the same time, each on a copy
    of the image: a batch of one takes almost as long as a batch of eight.

    Args:
      attempt: function of (rounds, rows, active) → (images, scores): attacks these rows of x, int64 (M,), each in its
        own round, int32 (M,); under XLA the rows are all, and only the `active` count.
      number: how many rounds.
      x: float32 (N, H, W, C), returned for images that no round scored below inf.
      active: bool (N,), the images to attack.
      goal: the score that is good enough.
      capacity: how many copies may run at the same time.
      compact: False under XLA.

    Returns:
      (images (N, H, W, C), scores (N,)).
    """
    done, best = 0, (x, tf.fill([len(active)], NOT_ADVERSARIAL))
    while done < number and active.any():
        rows = np.flatnonzero(active) if compact else np.arange(len(active))
        copies = max(1, min(capacity // len(rows), number - done)) if compact else 1
        rounds = np.tile(np.arange(done, done + copies, dtype=np.int32), len(rows))
        repeated = np.repeat(rows, copies)
        images, scores = attempt(rounds, repeated, active[repeated])
        scores = tf.reshape(scores, (-1, copies))
        first = tf.range(len(rows)) * copies + tf.argmin(scores, axis=1, output_type=tf.int32)
        candidates, before = (tf.gather(images, first), tf.reduce_min(scores, axis=1)), _take(best, rows)
        better = active[rows] & (candidates[1] < before[1])
        best = _scatter(best, tf.constant(rows), _where(better, candidates, before))
        done, active = done + copies, active & (best[1] > goal).numpy()
    return best


def replace_rows(tensors: tuple, rows: np.ndarray, replaced: np.ndarray, values: tuple) -> tuple:
    """The tensors (N, …) with the values (M, …) in those of the rows (M,) that are to be replaced, bool (M,)."""
    values = _where(tf.constant(replaced), values, _take(tensors, rows))
    return _scatter(tensors, tf.constant(rows), values)


def _take(tensors: Any, rows: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), tensors)


def _scatter(tensors: tuple, rows: tf.Tensor, values: tuple) -> tuple:
    return tuple(tf.tensor_scatter_nd_update(t, rows[:, None], v) for t, v in zip(tensors, values, strict=True))


def _where(condition: tf.Tensor, yes: tuple, no: tuple) -> tuple:
    return tuple(choose(condition, a, b) for a, b in zip(yes, no, strict=True))
