"""Fast Minimum-Norm: the nearest adversarial image (Pintor et al. 2021, https://arxiv.org/abs/2102.12827)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.base import Bounds, Call, Images
from tfadv.attacks.fab import boundary
from tfadv.attacks.gradient import logits_and_gradient
from tfadv.attacks.loop import NOT_ADVERSARIAL, Step
from tfadv.attacks.nearest import Inputs, NearestImageAttack, fools
from tfadv.attacks.norms import L2, NORMS, column, finite, get_norm
from tfadv.attacks.targets import most_likely_others
from tfadv.models.compiled import PerModel
from tfadv.specs import setting

# From the first step to the last, along a cosine:
STEP = (1.0, 0.01)  # α: the length of a step in L2, of images of 32×32×3 pixels in [0, 1]
CHANGE = (0.05, 0.001)  # γ: the share by which the radius grows or shrinks
_PIXELS = 32 * 32 * 3
CANDIDATES = 9  # the most likely other classes, among which that with the nearest boundary is chosen


class State(NamedTuple):
    """Per image: x, y, the class to approach, where it is, the radius around x, and the nearest adversarial image with
    its distance."""

    x: tf.Tensor
    y: tf.Tensor
    target: tf.Tensor
    at: tf.Tensor
    radius: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor


class Found(NamedTuple):
    """What the model says of the images of a state, one row per image.

    Attributes:
      adversarial: bool (N,).
      size: float32 (N,), their distance from x.
      loss: float32 (N,).
      gradient: float32 (N, H, W, C), of the loss that rises towards adversarial images.
    """

    adversarial: tf.Tensor
    size: tf.Tensor
    loss: tf.Tensor
    gradient: tf.Tensor


@dataclasses.dataclass(frozen=True)
class FMN(NearestImageAttack):
    """Follows the gradient of a margin within a ball around x that shrinks and grows until it touches the boundary.

    The search does not depend on eps, so one run is enough for all eps.  The nearest adversarial image that it has
    found is returned where it is within eps.

    The paper's margin is that to the most likely other class.  Here it is that to the class whose linear boundary at x
    is nearest, because the other way led to images up to 2.3 times as far.  The length of the first step is
    √(H · W · C / 3072) in L2, as long per pixel as in the paper.

    Attributes:
      norm: "linf", "l2" or "l1".
      steps: maximum number of gradients per image, after one for each of the 9 most likely other classes.
      targeted: True moves the images to class y instead of away from it.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    steps: int = setting(100, least=1)
    targeted: bool = False

    loss = "cw"

    def with_targets(self, call: Call, images: Images, active: np.ndarray) -> Images:
        """See `NearestImageAttack.with_targets`: of the likely classes, that whose linear boundary at x is nearest."""
        others = most_likely_others(images.logits, images.y)[:, :CANDIDATES]
        rows, number = np.flatnonzero(active), others.shape[1]
        if call.targeted or number == 1 or not len(rows):
            return images._replace(target=others[:, 0])
        x, y, candidates = (tf.gather(tensor, rows) for tensor in (images.x, images.y, others))
        call.cost.add(gradients=number * len(rows))
        distances = [_compiled_distance(call.model, x, y, candidates[:, k], norm=self.norm) for k in range(number)]
        nearest = tf.gather(candidates, tf.argmin(distances), batch_dims=1)
        return images._replace(target=tf.tensor_scatter_nd_update(others[:, 0], rows[:, None], nearest))

    def traced(self) -> FMN:
        """See `IterativeAttack.traced`."""
        return type(self)(norm=self.norm)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`; at x."""
        x, y = images.x, images.y
        return State(
            x,
            y,
            y if images.target is None else images.target,
            x,
            self.first_radius(x, bounds),
            x,
            tf.fill([len(y)], NOT_ADVERSARIAL),
        )

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithm 1 of the paper."""
        _, low, high, targeted, goal = inputs.bounds
        y, rises = state.y, functools.partial(self.objective, targeted=targeted)
        logits, gradient = logits_and_gradient(model, state.at, y, state.target, rises)
        adversarial = fools(logits, y, targeted)
        state, size = self.keep(state, adversarial)
        found = Found(adversarial, size, rises(logits, y, state.target), finite(gradient))

        length, change = (inputs.between(ends, i) for ends in (STEP, CHANGE))
        farthest = get_norm(self.norm).norm(tf.maximum(state.x - low, high - state.x))[:, 0, 0, 0]
        radius = tf.minimum(self.next_radius(state, found, change, inputs.bounds), farthest)
        moved = state.at + length * unit(state.x, inputs.bounds) * L2.steepest_ascent(gradient)
        # Clipped first: values at their limits then take nothing of the radius.
        at = self.limited_to(radius, tf.clip_by_value(moved, low, high), state.x, inputs.bounds)
        return Step(state._replace(at=at, radius=radius), state.best, state.distance, state.distance <= goal)

    def objective(self, logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
        """float32 (N,): what rises towards adversarial images, in the form of `tfadv.attacks.losses`."""
        return tf.where(targeted, -losses.margin(logits, y), losses.margin_to_target(logits, y, target))

    def first_radius(self, x: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """float32 (N,): not used, because the first step estimates how far the boundary is."""
        return tf.zeros(len(x))

    def next_radius(self, state: State, found: Found, change: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """float32 (N,): less where adversarial; more elsewhere, as far as a linear boundary would be at first."""
        less, more = state.radius * (1 - change), state.radius * (1 + change)
        # Where the linear boundary is all but reached, rounding could keep an image before it for ever.
        first = found.size + tf.maximum(self.to_boundary(found), change * found.size)
        more = tf.where(tf.math.is_finite(state.distance), more, first)
        return tf.where(found.adversarial, tf.minimum(less, state.distance), more)

    def to_boundary(self, found: Found) -> tf.Tensor:
        """float32 (N,): how far the boundary would be from where the image is, if it were linear."""
        slope = get_norm(self.norm).dual(found.gradient)[:, 0, 0, 0]
        return tf.where(slope > 0, tf.abs(found.loss) / slope, np.inf)

    def limited_to(self, radius: tf.Tensor, moved: tf.Tensor, x: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """The images `moved`, within the radius (N,) of x and within [low, high]."""
        return get_norm(self.norm).project(moved, x, column(radius), bounds.low, bounds.high)


def _distance(model: Any, x: tf.Tensor, y: tf.Tensor, target: tf.Tensor, *, norm: str) -> tf.Tensor:
    """float32 (N,): how far the boundary between y and the target is, if it is linear."""
    f, w = boundary(model, x, y, target)
    slope = get_norm(norm).dual(w)[:, 0, 0, 0]
    return tf.where(slope > 0, tf.abs(f) / slope, np.inf)


_compiled_distance = PerModel(_distance)


def unit(x: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """float32 (): what 1 in L2 is for images of 32×32×3 pixels in [0, 1]; the same share of the range of all pixels."""
    pixels = tf.cast(tf.reduce_prod(tf.shape(x)[1:]), tf.float32)
    return (bounds.high - bounds.low) * tf.sqrt(pixels / _PIXELS)
