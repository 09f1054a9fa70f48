"""σ-zero (Cinà et al. 2025, https://arxiv.org/abs/2402.01879): the adversarial image that changes fewest values."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.gradient import logits_and_gradient
from tfadv.attacks.loop import NOT_ADVERSARIAL, Step
from tfadv.attacks.nearest import Inputs, NearestImageAttack, fools
from tfadv.attacks.norms import Linf, choose, column, finite
from tfadv.specs import setting

# Of pixels in [0, 1]; the authors' values.
STEP = (1.0, 0.1)  # of Adam, from the first step to the last along a cosine
MOMENTS = (0.9, 0.999)  # of Adam
SMOOTHING = 1e-3  # σ: a change d counts as d² / (d² + σ)
THRESHOLD = 0.3  # τ at first: smaller changes are undone
THRESHOLD_CHANGE = 0.01  # by which τ rises or falls in a step of length 1


class State(NamedTuple):
    """Per image: x, y, where it is, Adam's moments, the threshold (N, 1, 1, 1), and the nearest adversarial image with
    its distance."""

    x: tf.Tensor
    y: tf.Tensor
    at: tf.Tensor
    mean: tf.Tensor
    square: tf.Tensor
    threshold: tf.Tensor
    best: tf.Tensor
    distance: tf.Tensor


@dataclasses.dataclass(frozen=True)
class SigmaZero(NearestImageAttack):
    """Minimises the margin and a smooth count of the changed values with Adam, and undoes small changes.

    The search does not depend on eps, so one run is enough for all eps.

    Attributes:
      norm: "l0", the number of values of the array H · W · C that change, or "pixels", the number of pixels that change
        in some channel, which the paper does not have.
      steps: maximum number of gradients per image.
      targeted: True moves the images to class y instead of away from it.
    """

    norm: str = setting("l0", choices=("l0", "pixels"))
    steps: int = setting(1000, least=1)
    targeted: bool = False

    loss = "cw"

    @property
    def name(self) -> str:
        """See `Spec.name`."""
        return "sigma-zero"

    def traced(self) -> SigmaZero:
        """See `IterativeAttack.traced`."""
        return SigmaZero(norm=self.norm)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`; at x."""
        x, zeros = images.x, tf.zeros_like(images.x)
        threshold = tf.fill([len(images.y), 1, 1, 1], THRESHOLD)
        return State(x, images.y, x, zeros, zeros, threshold, x, tf.fill([len(images.y)], NOT_ADVERSARIAL))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithm 1 of the paper."""
        _, low, high, targeted, goal = inputs.bounds

        def below(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
            """The margin where the image is not adversarial, 0 elsewhere: what rises."""
            return tf.minimum(tf.where(targeted, -1.0, 1.0) * losses.margin(logits, y), 0.0)

        logits, gradient = logits_and_gradient(model, state.at, state.y, None, below)
        adversarial = fools(logits, state.y, targeted)
        state, _ = self.keep(state, adversarial)

        width, (first, second), number = high - low, MOMENTS, tf.cast(i, tf.float32) + 1
        descent = self.descent((state.at - state.x) / width, width * finite(gradient))
        mean, square = first * state.mean + (1 - first) * descent, second * state.square + (1 - second) * descent**2
        slope = mean / (1 - first**number) / (tf.sqrt(square / (1 - second**number)) + 1e-8)
        moved = tf.clip_by_value(state.at - width * inputs.between(STEP, i) * slope, low, high)

        rise = tf.where(adversarial, 1.0, -1.0) * THRESHOLD_CHANGE * inputs.between(STEP, i + 1)
        threshold = tf.clip_by_value(state.threshold + column(rise), 0.0, 1.0)
        size = tf.abs(moved - state.x) / width
        size = tf.reduce_max(size, axis=3, keepdims=True) if self.norm == "pixels" else size
        at = choose(size < threshold, state.x, moved)
        state = state._replace(at=at, mean=mean, square=square, threshold=threshold)
        return Step(state, state.best, state.distance, state.distance <= goal)

    def descent(self, change: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient of the smooth count less that of the margin, divided by its largest value; all (N, H, W, C)."""
        size = tf.square(change)
        size = tf.reduce_sum(size, axis=3, keepdims=True) if self.norm == "pixels" else size
        of_count = 2 * SMOOTHING * change / tf.square(size + SMOOTHING)
        descent = of_count / tf.cast(tf.reduce_prod(tf.shape(size)[1:]), tf.float32) - gradient
        return tf.math.divide_no_nan(descent, Linf.norm(descent))
