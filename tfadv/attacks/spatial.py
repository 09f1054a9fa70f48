"""Rotations and translations (Engstrom et al. 2017, https://arxiv.org/abs/1712.02779): the worst of many."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.iterative import IterativeAttack, Passes
from tfadv.attacks.loop import ADVERSARIAL, Step
from tfadv.attacks.norms import choose
from tfadv.attacks.randomness import START, drawn
from tfadv.attacks.resampling import bilinear
from tfadv.specs import setting


class State(NamedTuple):
    """Clean images, labels, the images with the greatest loss and that loss, and the changes to try."""

    x: tf.Tensor
    y: tf.Tensor
    worst: tf.Tensor
    loss: tf.Tensor
    changes: tf.Tensor  # float32 (M, steps, 3): degrees; pixels downwards and to the right


@dataclasses.dataclass(frozen=True)
class Spatial(IterativeAttack):
    """Rotates and shifts images, and takes what fools the model or, where nothing does, has the greatest loss.

    It sees only the logits, and has no eps.  An image is rotated about its centre, then shifted; pixels between pixels
    are interpolated linearly, and those from outside of the image are black.  The defaults try the grid of the paper.

    Attributes:
      rotation: the largest angle in degrees, in both directions.
      translation: the largest shift, as a share of the height and of the width, rounded to whole pixels.
      angles: number of angles of the grid, at equal distances.
      shifts: number of shifts of the grid in each of the two directions, at equal distances.
      samples: number of random changes of each image in place of the grid; 0 takes the grid.
    """

    rotation: float = setting(30.0, least=0, most=180)
    translation: float = setting(0.1, least=0, most=1)
    angles: int = setting(31, least=1)
    shifts: int = setting(5, least=1)
    samples: int = setting(0, least=0)

    has_eps = False
    uses_gradient = False

    @property
    def steps(self) -> int:  # type: ignore[override]  # a setting of other attacks
        """The number of changes of each image."""
        return self.samples or self.angles * self.shifts**2

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`."""
        return False

    def traced(self) -> Spatial:
        """See `IterativeAttack.traced`."""
        return Spatial()

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        return Passes(0, 1, 0)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`; without a change, images are classified correctly."""
        changes = self._changes(images, rounds, seed).astype(np.float32)
        loss = losses.cross_entropy(images.logits, images.y, None)
        return State(images.x, images.y, images.x, loss, tf.constant(changes))

    def _changes(self, images: Images, rounds: np.ndarray, seed: int) -> np.ndarray:
        """float (M, steps, 3): those of `State`."""
        most = np.array([self.rotation, *(round(self.translation * side) for side in images.x.shape[1:3])])
        if self.samples:
            shape = (self.samples, 3)
            return most * drawn(lambda random: random.uniform(-1, 1, shape), seed, START, images.numbers, rounds)
        axes = [_evenly(number) for number in (self.angles, self.shifts, self.shifts)]
        grid = most * np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return np.broadcast_to(grid, (len(rounds), *grid.shape))

    def step(self, model: Any, inputs: Bounds, i: tf.Tensor, state: State) -> Step:
        """Tries one change of each image."""
        low = inputs.low  # black
        candidate = low + transformed(state.x - low, state.changes[:, i])
        candidate = tf.clip_by_value(candidate, low, inputs.high)
        logits = gradient.logits_of(model, candidate)
        adversarial = gradient.is_adversarial(logits, state.y)
        loss = losses.cross_entropy(logits, state.y, None)
        worst = choose(loss > state.loss, candidate, state.worst)
        next_state = state._replace(worst=worst, loss=tf.maximum(loss, state.loss))
        return Step(next_state, candidate, tf.where(adversarial, ADVERSARIAL, -loss), adversarial)

    def last(self, model: Any, inputs: Bounds, state: State) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`."""
        return state.worst, -state.loss


def transformed(x: tf.Tensor, changes: tf.Tensor) -> tf.Tensor:
    """Images rotated about their centre, then shifted.

    Args:
      x: float32 (N, H, W, C).
      changes: float32 (N, 3), degrees from the horizontal axis to the vertical one, which points downwards; pixels
        downwards and to the right.

    Returns:
      float32 (N, H, W, C); 0 outside of the image.
    """
    height, width = x.shape[1:3]
    angle, shift = changes[:, 0] * (math.pi / 180), changes[:, 1:, None, None]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    centre = (height - 1) / 2, (width - 1) / 2
    rows, columns = rows - centre[0] - shift[:, 0], columns - centre[1] - shift[:, 1]
    cos, sin = tf.cos(angle)[:, None, None], tf.sin(angle)[:, None, None]
    return bilinear(x, cos * rows - sin * columns + centre[0], sin * rows + cos * columns + centre[1])


def _evenly(number: int) -> np.ndarray:
    """Numbers at equal distances from -1 to 1; a single one is 0."""
    return np.linspace(-1, 1, number) if number > 1 else np.zeros(1)
