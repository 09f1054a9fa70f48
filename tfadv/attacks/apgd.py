"""Auto-PGD: PGD that adapts its own step size (Croce & Hein 2020, https://arxiv.org/abs/2003.01690, section 3)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses
from tfadv.attacks.base import Bounds, Images, precision_setting
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.loop import ADVERSARIAL, NOT_ADVERSARIAL, Step, score
from tfadv.attacks.norms import NORMS, get_norm
from tfadv.attacks.targets import most_likely_others
from tfadv.specs import setting

MOMENTUM = 0.75  # α: the weight of the new step; the rest is the step before
MIN_RISES = 0.75  # ρ: if the loss rises in fewer of the steps between two checkpoints, the step size is halved
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


class Inputs(NamedTuple):
    """What all steps share: the bounds, and `checkpoint_intervals`."""

    bounds: Bounds
    intervals: tf.Tensor


class State(NamedTuple):
    """Per image: where it is and was, the best image with its gradient and loss, and the record of the step size."""

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
    best_loss_at_checkpoint: tf.Tensor
    rises: tf.Tensor  # steps since the checkpoint in which the loss rose
    halved: tf.Tensor  # whether the step size was halved at the checkpoint


@dataclasses.dataclass(frozen=True)
class APGD(IterativeAttack):
    """Auto-PGD: APGD-CE, APGD-DLR or, with `loss="dlr-t"`, targeted APGD (APGD-T).

    Attributes:
      loss: "ce", "cw" or "dlr"; "cw-t" or "dlr-t" attack the most likely other classes one after the other.
        See `losses.resolve_loss` for DLR with too few classes.
      norm: "linf" or "l2".
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
        at = get_norm(self.norm).project(x + eps * self.starting_points(images, rounds, seed), x, eps, low, high)
        target = tf.gather(most_likely_others(images.logits, y), rounds // self.restarts, batch_dims=1)
        zero = tf.zeros(len(y))
        lowest = zero + tf.float32.min
        size = _column(zero) + 2 * eps
        return State(x, y, target, at, at, at, at, size, lowest, lowest, lowest, zero, zero > 0)

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        return Inputs(bounds, tf.constant(checkpoint_intervals(self.steps)))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithm 1 of the paper."""
        (eps, low, high, targeted, _), norm = inputs.bounds, get_norm(self.norm)
        x, at, image = state.x, state.at, state.at

        def objective(logits, y, target):
            loss = losses.LOSSES[losses.resolve_loss(self.loss, logits.shape[-1])]
            return tf.where(targeted, -1.0, 1.0) * loss(logits, y, target)

        logits, grad = gradient.logits_and_gradient(model, at, state.y, state.target, objective)
        adversarial = gradient.is_adversarial(logits, state.y, targeted)
        value = objective(logits, state.y, state.target)
        rises = state.rises + tf.cast((value > state.loss) & (i > 0), tf.float32)
        better = _column(value > state.best_loss)
        best, best_gradient = tf.where(better, at, state.best), tf.where(better, grad, state.best_gradient)
        best_loss = tf.maximum(value, state.best_loss)

        # At a checkpoint the step size is halved and the attack returns to the best image, where the loss rose too
        # seldom (condition 1), or where since the last checkpoint neither the step size nor the best loss has changed.
        interval = tf.cast(inputs.intervals[i], tf.float32)
        check = interval > 0
        stuck = ~state.halved & (best_loss <= state.best_loss_at_checkpoint)
        halve = check & ((rises < MIN_RISES * interval) | stuck)
        step_size = tf.where(_column(halve), state.step_size / 2, state.step_size)
        at, grad = tf.where(_column(halve), best, at), tf.where(_column(halve), best_gradient, grad)

        ahead = norm.project(at + step_size * norm.steepest_ascent(grad), x, eps, low, high)
        weight = tf.where(i > 0, MOMENTUM, 1.0)
        moved = norm.project(at + weight * (ahead - at) + (1 - weight) * (at - state.before), x, eps, low, high)
        next_state = State(
            *(x, state.y, state.target, moved, at, best, best_gradient, step_size, value, best_loss),
            best_loss_at_checkpoint=tf.where(check, best_loss, state.best_loss_at_checkpoint),
            rises=tf.where(check, 0.0, rises),
            halved=tf.where(check, halve, state.halved),
        )
        return Step(next_state, image, score(adversarial), adversarial)

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


def _column(v: tf.Tensor) -> tf.Tensor:
    return v[:, None, None, None]
