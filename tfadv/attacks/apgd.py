"""Auto-PGD: PGD that adapts its own step size (Croce & Hein 2020, https://arxiv.org/abs/2003.01690, section 3).

In L1 it adapts how many values move (Croce & Hein 2021, https://arxiv.org/abs/2103.01208).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses
from tfadv.attacks.base import Bounds, Images, precision_setting
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.loop import ADVERSARIAL, NOT_ADVERSARIAL, Step, score
from tfadv.attacks.norms import L0, L1, NORMS, choose, column, get_norm
from tfadv.attacks.targets import most_likely_others
from tfadv.specs import setting

MOMENTUM = 0.75  # α: the weight of the new step; the rest is the step before
MIN_RISES = 0.75  # ρ: if the loss rises in fewer of the steps between two checkpoints, the step size is halved
# In L1, as in the authors' code:
FIRST_SHARE = 0.2  # of the values that move
FEWER = 0.95  # the attack starts again from the best image, where it changes fewer values than this share of before
SHRINKING = 1.5  # by which the step size and the number of values that move fall
MOST_SHRINKING = 10.0  # of the step size
_NAMES = {"dlr-t": "apgd-t"}


def checkpoints(steps: int) -> list[int]:
    """The iterations at which the step size is reconsidered, the first is 0.

    They are ⌈p_j · steps⌉ with p_0 = 0, p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), while p_j <= 1.
    """
    percent = [0, 22]  # whole numbers: 0.41 * 100 is above 41 in floating point
    while percent[-1] <= 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return sorted({-(-p * steps // 100) for p in percent[:-1]})


def checkpoint_intervals(steps: int) -> np.ndarray:
    """int32 (steps,): at a checkpoint the iterations since the previous one, elsewhere 0."""
    reached = checkpoints(steps)
    intervals = np.zeros(steps + 1, np.int32)
    intervals[reached[1:]] = np.diff(reached)
    return intervals[:steps]


def l1_schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the images of an attack in L1 may be, and when it adapts its step size.

    As in the authors' code, three tenths of the steps are within 3 eps, three tenths within 2 eps, and the others
    within eps.  Each of these parts has a checkpoint after every 4% of it.

    Returns:
      The radius of each iterate, the last one included, in units of eps, float32 (steps + 1,); and as
      `checkpoint_intervals`.
    """
    part = steps * 3 // 10
    radii, intervals = np.ones(steps + 1, np.float32), np.zeros(steps, np.int32)
    for begin, end, radius in ((0, part, 3), (part, 2 * part, 2), (2 * part, steps, 1)):
        radii[begin:end], interval = radius, max(1, (end - begin) * 4 // 100)
        intervals[begin + interval : end : interval] = interval
    return radii, intervals


class Inputs(NamedTuple):
    """What all steps share: the bounds, `checkpoint_intervals`, and the radii of `l1_schedule`, 1 in other norms."""

    bounds: Bounds
    intervals: tf.Tensor
    radii: tf.Tensor


class Halving(NamedTuple):
    """What decides in L∞ and L2, at a checkpoint, whether the step size is halved."""

    best_loss: tf.Tensor  # at the checkpoint before
    rises: tf.Tensor  # steps since then in which the loss rose
    halved: tf.Tensor  # whether the step size was halved then


class Sparsity(NamedTuple):
    """In L1: what decides along how many values an image moves."""

    share: tf.Tensor  # of all values
    changed: tf.Tensor  # values of the best image at the checkpoint before


class State(NamedTuple):
    """Per image: where it is and was, the best image with its gradient and loss, and what its next steps depend on."""

    x: tf.Tensor
    y: tf.Tensor
    target: tf.Tensor
    at: tf.Tensor
    before: tf.Tensor
    best: tf.Tensor
    best_gradient: tf.Tensor
    step_size: tf.Tensor
    loss: tf.Tensor
    best_loss: tf.Tensor
    record: Any  # Halving or Sparsity


@dataclasses.dataclass(frozen=True)
class APGD(IterativeAttack):
    """Auto-PGD: APGD-CE, APGD-DLR or, with `loss="dlr-t"`, targeted APGD (APGD-T).

    Attributes:
      loss: "ce", "cw" or "dlr"; "cw-t" or "dlr-t" attack the most likely other classes one after the other.
        See `losses.resolve_loss` for DLR with too few classes.
      norm: "linf", "l2" or "l1".
      steps: maximum number of gradients per image, for each eps, restart and target.
      restarts: number of random starts (for each target).
      targets: how many other classes a loss whose name ends in "-t" attacks; at most K - 1 are used.
      targeted: True moves the images to class y instead of away from it; not with a loss whose name ends in "-t".
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    loss: str = setting("ce", choices=tuple(losses.LOSSES))
    norm: str = setting("linf", choices=tuple(NORMS))
    steps: int = setting(100, least=1)
    restarts: int = setting(1, least=1)
    targets: int = setting(9, least=1)
    targeted: bool = False
    precision: str = precision_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.endswith("-t") and self.targeted:
            raise ValueError(
                f"loss {self.loss!r} chooses its targets itself: leave targeted out, or take 'ce', 'cw' or 'dlr'."
            )

    @property
    def name(self) -> str:
        """See `Attack.name`."""
        return _NAMES.get(self.loss, f"apgd-{self.loss}")

    def traced(self) -> APGD:
        """See `IterativeAttack.traced`."""
        return APGD(loss=self.loss, norm=self.norm)

    def rounds(self, classes: int) -> int:
        """See `IterativeAttack.rounds`."""
        return self.restarts * (min(self.targets, classes - 1) if self.loss.endswith("-t") else 1)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        x, y, (eps, low, high, *_) = images.x, images.y, bounds
        zero = tf.zeros(len(y))
        lowest = zero + tf.float32.min
        record: Halving | Sparsity
        if self.norm == "l1":
            eps *= l1_schedule(self.steps)[0][0]
            step_size, record = eps, Sparsity(zero + FIRST_SHARE, zero + math.prod(x.shape[1:]))
        else:
            step_size, record = 2 * eps, Halving(lowest, zero, zero > 0)
        at = get_norm(self.norm).project(x + eps * self.starting_points(images, rounds, seed), x, eps, low, high)
        target = tf.gather(most_likely_others(images.logits, y), rounds // self.restarts, batch_dims=1)
        return State(x, y, target, at, at, at, at, column(zero) + step_size, lowest, lowest, record)

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        radii, intervals = np.ones(self.steps + 1, np.float32), checkpoint_intervals(self.steps)
        if self.norm == "l1":
            radii, intervals = l1_schedule(self.steps)
        return Inputs(bounds, tf.constant(intervals), tf.constant(radii))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithm 1 of the paper."""
        targeted, image = inputs.bounds.targeted, state.at

        def objective(logits, y, target):
            loss = losses.LOSSES[losses.resolve_loss(self.loss, logits.shape[-1])]
            return tf.where(targeted, -1.0, 1.0) * loss(logits, y, target)

        logits, grad = gradient.logits_and_gradient(model, state.at, state.y, state.target, objective)
        adversarial = gradient.is_adversarial(logits, state.y, targeted) & (inputs.radii[i] <= 1)
        value = objective(logits, state.y, state.target)
        better = value > state.best_loss
        state = state._replace(
            best=choose(better, state.at, state.best),
            best_gradient=choose(better, grad, state.best_gradient),
            best_loss=tf.maximum(value, state.best_loss),
        )
        move = _move_in_l1 if self.norm == "l1" else self._move
        return Step(move(inputs, i, state, grad, value), image, score(adversarial), adversarial)

    def _move(self, inputs: Inputs, i: tf.Tensor, state: State, grad: tf.Tensor, value: tf.Tensor) -> State:
        """The next images in L∞ and L2.

        At a checkpoint the step size is halved and the attack returns to the best image, where the loss rose too seldom
        (condition 1), or where since the last checkpoint neither the step size nor the best loss has changed.
        """
        (eps, low, high, *_), norm = inputs.bounds, get_norm(self.norm)
        x, record = state.x, state.record
        interval = tf.cast(inputs.intervals[i], tf.float32)
        check = interval > 0
        rises = record.rises + tf.cast((value > state.loss) & (i > 0), tf.float32)
        stuck = ~record.halved & (state.best_loss <= record.best_loss)
        halve = check & ((rises < MIN_RISES * interval) | stuck)
        step_size = tf.where(column(halve), state.step_size / 2, state.step_size)
        at, grad = choose(halve, state.best, state.at), choose(halve, state.best_gradient, grad)

        ahead = norm.ascend(at, grad, step_size, x, eps, low, high)
        weight = tf.where(i > 0, MOMENTUM, 1.0)
        moved = norm.project(at + weight * (ahead - at) + (1 - weight) * (at - state.before), x, eps, low, high)
        record = Halving(
            best_loss=tf.where(check, state.best_loss, record.best_loss),
            rises=tf.where(check, 0.0, rises),
            halved=tf.where(check, halve, record.halved),
        )
        return state._replace(at=moved, before=at, step_size=step_size, loss=value, record=record)

    def last(self, model: Any, inputs: Inputs, state: State) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`; an image that is not adversarial scores by its best loss."""
        adversarial = gradient.is_adversarial(gradient.logits_of(model, state.at), state.y, inputs.bounds.targeted)
        scores = tf.where(tf.math.is_finite(state.best_loss), -state.best_loss, NOT_ADVERSARIAL)
        return state.at, tf.where(adversarial, ADVERSARIAL, scores)

    def _defaults(self) -> APGD:
        return APGD(loss=self.loss)


apgd_ce = functools.partial(APGD, loss="ce")
apgd_dlr = functools.partial(APGD, loss="dlr")
apgd_t = functools.partial(APGD, loss="dlr-t")


def _move_in_l1(inputs: Inputs, i: tf.Tensor, state: State, grad: tf.Tensor, value: tf.Tensor) -> State:
    """The next images in L1, without momentum.

    From a checkpoint on, two thirds of the values that the best image changes move.  Where these have become fewer, the
    attack returns to the best image with the largest step size; elsewhere the step size falls.  It also returns there
    where the radius of `l1_schedule` falls, and compares losses anew from then on.
    """
    (eps, low, high, *_), x, record = inputs.bounds, state.x, state.record
    radius = eps * inputs.radii[i + 1]
    narrower = inputs.radii[i + 1] < inputs.radii[i]
    check = (inputs.intervals[i] > 0) | narrower
    changed = L0.norm(state.best - x)[:, 0, 0, 0]
    back = check & ((changed < FEWER * record.changed) | narrower)
    smaller = tf.where(check, tf.maximum(state.step_size / SHRINKING, radius / MOST_SHRINKING), state.step_size)
    step_size = tf.where(column(back), radius, smaller)
    at, grad = choose(back, state.best, state.at), choose(back, state.best_gradient, grad)
    record = Sparsity(
        share=tf.where(check, changed / (SHRINKING * math.prod(x.shape[1:])), record.share),
        changed=tf.where(check, changed, record.changed),
    )
    moved = L1.project(at + step_size * L1.steepest_ascent(grad, record.share), x, radius, low, high)
    best_loss = tf.where(narrower, tf.float32.min, state.best_loss)
    return State(
        *(x, state.y, state.target, moved, at, state.best, state.best_gradient, step_size, value, best_loss, record)
    )
