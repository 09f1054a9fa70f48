"""Attacks that look for the adversarial image nearest to the image: one run serves all eps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.base import Bounds, Call, Images
from tfadv.attacks.gradient import compiled_logits, is_adversarial, logits_of
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.norms import choose, get_norm

ROUNDING = 1e-5  # of the largest logit


class Inputs(NamedTuple):
    """What all steps share: the bounds, and the number of steps, float32 ()."""

    bounds: Bounds
    steps: tf.Tensor

    def between(self, ends: tuple[float, float], i: tf.Tensor) -> tf.Tensor:
        """float32 (): the value at step i of what goes from one value, at the first step, to another along a cosine."""
        first, last = ends
        return last + (first - last) * (1 + tf.cos(math.pi * tf.cast(i, tf.float32) / self.steps)) / 2


class NearestImageAttack(IterativeAttack):
    """An iterative attack whose score is the distance of the nearest adversarial image that it has found.

    The search does not depend on eps.  It ends for an image that is adversarial within the smallest eps.

    Its state has the fields `x`, `y`, `at` (where the images are), `best` and `distance` (the nearest adversarial image
    so far, and how far it is).
    """

    norm: str

    limited = False

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`; what it finds is not checked with new passes."""
        return False

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        return Inputs(bounds, tf.constant(self.steps, tf.float32))

    def with_targets(self, call: Call, images: Images, active: np.ndarray) -> Images:
        """The images with the classes that the attack approaches, if it chooses any; adds to `call.cost`.

        Args:
          call, images: as `attack_batch` has them.
          active: bool (N,), the images to attack.
        """
        return images

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`; one run for all eps."""
        images = Images(x, y, call.numbers, compiled_logits(call.model, x))
        call.cost.add(forwards=len(y))
        active = ~is_adversarial(images.logits, y, call.targeted).numpy()
        images = self.with_targets(call, images, active)
        bounds = call.bounds(tf.reduce_max(sizes), goal=tf.reduce_min(sizes))
        nearest, distances = self.run(call, images, active, bounds)
        return tf.where((distances <= sizes[:, None])[..., None, None, None], nearest, x)

    def keep(self, state: Any, adversarial: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """(the state, whose nearest adversarial images are those at which it is, if these are; their distance (N,))."""
        size = get_norm(self.norm).norm(state.at - state.x)[:, 0, 0, 0]
        closer = adversarial & (size < state.distance)
        best = choose(closer, state.at, state.best)
        return state._replace(best=best, distance=tf.where(closer, size, state.distance)), size

    def last(self, model: Any, inputs: Inputs, state: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`; the score of an image is its distance."""
        state, _ = self.keep(state, fools(logits_of(model, state.at), state.y, inputs.bounds.targeted))
        return state.best, state.distance


def fools(logits: tf.Tensor, y: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
    """bool (N,): adversarial, and by more than another batch size could round away."""
    beyond = tf.where(targeted, -1.0, 1.0) * losses.margin(logits, y)
    return is_adversarial(logits, y, targeted) & (beyond > ROUNDING * tf.reduce_max(tf.abs(logits), axis=1))
