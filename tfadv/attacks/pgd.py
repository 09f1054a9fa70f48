"""Projected gradient descent (Madry et al. 2017, https://arxiv.org/abs/1706.06083); the steps of BIM and MI-FGSM."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses
from tfadv.attacks.base import Bounds, Call, Images, precision_setting
from tfadv.attacks.iterative import IterativeAttack, Passes
from tfadv.attacks.loop import ADVERSARIAL, Step, score
from tfadv.attacks.norms import NORMS, choose, finite, get_norm
from tfadv.models.expectation import Expectation
from tfadv.specs import setting


class Inputs(NamedTuple):
    """What all steps share: the bounds, the step size and decay of the momentum, float32 (), and `RENEWALS`, or zeros
    where the search does not look for cycles."""

    bounds: Bounds
    step_size: tf.Tensor
    decay: tf.Tensor
    renewals: tf.Tensor


class State(NamedTuple):
    """Clean images, labels, the present images, the momentum, a running sum of gradients, an earlier image of each, NaN
    where there is none, and what else a subclass remembers."""

    x: tf.Tensor
    y: tf.Tensor
    at: tf.Tensor
    momentum: tf.Tensor
    earlier: tf.Tensor
    more: Any = ()


def _renewals(most: int) -> np.ndarray:
    """int64 (R,): after how many steps, up to `most`, the present image is kept, to compare later ones with it.

    Along signs, a fixed step moves a pixel on a few values, so that the search soon returns to an earlier image exactly
    (https://arxiv.org/abs/2503.19347).  As in Brent's method, one earlier image finds a cycle of any length, because
    the time between two renewals grows.  It grows slowly, because most cycles are short.
    """
    found = [1]
    while found[-1] <= most:
        found.append(found[-1] + max(1, found[-1] // 4))
    return np.array(found)


RENEWALS = _renewals(100_000)


@dataclasses.dataclass(frozen=True)
class IteratedGradient(IterativeAttack):
    """Several steps along the gradient, or a running sum of gradients, each projected back to within eps.

    Attributes:
      steps: number of gradients per image, for each eps and restart.
      step_size: in units of x; None chooses it from eps.
      early_stop: True stops attacking an image at its first adversarial iterate, which is enough for robust accuracy
        and saves most gradients.  It also skips images that are misclassified without an attack, or were adversarial
        at a smaller eps.  An image on which the attack fails is returned unchanged.  False takes all steps and
        returns the last iterate of each image.
      targeted: True moves the images to class y instead of away from it.
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    steps: int = setting(10, least=1)
    step_size: float | None = setting(None, above=0)
    early_stop: bool = True
    targeted: bool = False
    precision: str = precision_setting()

    # The plain method, which subclasses change; where it is a choice of the user, it is a field.
    loss = "ce"
    norm = "linf"
    decay = 0.0
    random_start = False
    restarts = 1

    def traced(self) -> IteratedGradient:
        """See `IterativeAttack.traced`."""
        return dataclasses.replace(self, steps=1, step_size=None, targeted=False, precision="float32")

    def rounds(self, classes: int) -> int:
        """See `IterativeAttack.rounds`."""
        return self.restarts

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        return Passes(1, 0, int(self._compares()))

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        x, at, (eps, low, high, *_) = images.x, images.x, bounds
        if self.random_start:
            at = x + eps * self.starting_points(images, rounds, seed)
        at = get_norm(self.norm).project(at, x, eps, low, high)
        return State(x, images.y, at, tf.zeros_like(x), np.nan * x)

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        step_size = self.default_step_size(bounds.eps) if self.step_size is None else self.step_size
        renewals = tf.constant(RENEWALS if self.repeats else 0 * RENEWALS, tf.int32)
        return Inputs(bounds, tf.cast(step_size, tf.float32), tf.constant(self.decay, tf.float32), renewals)

    @property
    def repeats(self) -> bool:
        """Whether a step depends on the image alone, so that a search that returns to an earlier one repeats itself."""
        # A momentum is a memory, and in bfloat16 the gradient depends a little on the batch.
        return self.decay == 0 and self.precision == "float32"

    def default_step_size(self, eps: tf.Tensor) -> tf.Tensor:
        """The step size where the user chose none, float32 ()."""
        return eps / 4

    def ascent(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> tuple[Any, tf.Tensor, Any]:
        """The logits of the present images, or None without `early_stop`, the gradient to follow, and `State.more`."""
        objective = self._objective(inputs.bounds.targeted)
        logits, grad = gradient.logits_and_gradient(model, state.at, state.y, loss=objective)
        return logits, finite(grad), state.more

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Eq. 3: x ← project(x + step_size · steepest ascent of the loss)."""
        (eps, low, high, targeted, _), norm = inputs.bounds, get_norm(self.norm)
        logits, grad, more = self.ascent(model, inputs, i, state)
        momentum = inputs.decay * state.momentum
        momentum += tf.math.divide_no_nan(grad, tf.reduce_mean(tf.abs(grad), (1, 2, 3), True))
        at = norm.ascend(state.at, momentum, inputs.step_size, state.x, eps, low, high)
        next_state = state._replace(at=at, momentum=momentum, more=more)
        if not self.early_stop:
            nobody = tf.zeros_like(state.y, tf.bool)
            return Step(next_state, state.at, score(nobody), nobody)
        adversarial = gradient.is_adversarial(logits, state.y, targeted)
        cycle = tf.reduce_all(at == state.earlier, (1, 2, 3)) & (not isinstance(model, Expectation))
        earlier = choose(tf.reduce_any(inputs.renewals == i + 1), at, state.earlier)
        return Step(next_state._replace(earlier=earlier), state.at, score(adversarial), adversarial | cycle)

    def last(self, model: Any, inputs: Inputs, state: State) -> tuple[tf.Tensor, tf.Tensor]:
        """The last images; where there are several restarts, one that is not adversarial scores by its loss."""
        if not self._compares():
            return state.at, tf.zeros(tf.shape(state.y))
        targeted, logits = inputs.bounds.targeted, gradient.logits_of(model, state.at)
        adversarial = gradient.is_adversarial(logits, state.y, targeted)
        return state.at, tf.where(adversarial, ADVERSARIAL, -self._objective(targeted)(logits, state.y))

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`; without early stopping all images take all steps at each eps."""
        if self.early_stop:
            return super().attack_batch(call, x, y, sizes)
        everyone = np.ones(len(y), bool)
        images = Images(x, y, call.numbers)
        results = [self.run(call, images, everyone, call.bounds(eps))[0] for eps in tf.unstack(sizes)]
        return tf.stack(results)

    def _compares(self) -> bool:
        return self.early_stop or self.restarts > 1

    def _objective(self, targeted: tf.Tensor) -> Any:
        sign = tf.where(targeted, -1.0, 1.0)

        def objective(logits, y, target=None):
            return sign * losses.LOSSES[losses.resolve_loss(self.loss, logits.shape[-1])](logits, y)

        return objective


@dataclasses.dataclass(frozen=True)
class PGD(IteratedGradient):
    """Several small steps from a random start, each projected back to within eps; see `IteratedGradient`.

    Attributes:
      loss: "ce", "cw" or "dlr" (`losses.LOSSES`); see `losses.resolve_loss` for DLR with too few classes.
      norm: "linf", "l2" or "l1"; see `L1.steepest_ascent` for the pixels that move.
      step_size: in units of x; None means eps / 4.
      random_start: True starts at a uniformly random point within eps, False at x.
      restarts: number of random starts; an image that is adversarial is not restarted.  With several restarts, the
        result is an adversarial image, or else (with `early_stop=False`) the one with the greatest loss.
    """

    loss: str = setting("ce", choices=("ce", "cw", "dlr"))
    norm: str = setting("linf", choices=tuple(NORMS))
    random_start: bool = True
    restarts: int = setting(1, least=1)

    def traced(self) -> PGD:
        """See `IterativeAttack.traced`; of the restarts only matters whether there are several."""
        plain = dataclasses.replace(self, steps=1, step_size=None, targeted=False, precision="float32")
        return dataclasses.replace(plain, random_start=True, restarts=min(self.restarts, 2))
