"""Adversarial patches at the worst place of each image (Rao et al. 2020, https://arxiv.org/abs/2005.02313)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses, randomness
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.iterative import IterativeAttack, Passes
from tfadv.attacks.loop import ADVERSARIAL, Step
from tfadv.attacks.norms import choose
from tfadv.specs import setting


class Inputs(NamedTuple):
    """What all steps share: the bounds, the side of the patch in pixels, int32 (), and the step size, float32 ()."""

    bounds: Bounds
    side: tf.Tensor
    step_size: tf.Tensor


class State(NamedTuple):
    """Clean images, labels, what the patch would show at each pixel, its corners, and keys for random numbers."""

    x: tf.Tensor
    y: tf.Tensor
    content: tf.Tensor  # float32 (M, H, W, C)
    corner: tf.Tensor  # int32 (M, 2): row and column
    keys: tf.Tensor  # int64 (M,)


@dataclasses.dataclass(frozen=True)
class Patch(IterativeAttack):
    """Covers a square of each image, whose place and content are chosen for this image; it has no eps.

    Each step moves the content along the sign of the gradient of the margin max_{j≠y} z_j - z_y, then tries the patch
    at a random place, and leaves it there if the margin rises.  What shows at a pixel does not move with the patch.

    A patch of its own for each image is a stronger attacker than one printed patch for all of them, as that of Brown et
    al. (2017, https://arxiv.org/abs/1712.09665): an image that is robust here withstands more.

    Attributes:
      size: the share of the image's area that is covered; the side is rounded to whole pixels, of which it has one at
        least.
      steps: number of gradients per image, for each restart.
      step_size: in units of x.
      restarts: number of random places and contents to start from.
    """

    size: float = setting(0.05, above=0, most=1)
    steps: int = setting(100, least=1)
    step_size: float = setting(0.05, above=0)
    restarts: int = setting(1, least=1)

    has_eps = False
    loss = "cw"

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`."""
        return False

    def side(self, shape: tuple[int, ...]) -> int:
        """The side of the patch in pixels on images of a shape (H, W, C)."""
        return min(max(round(math.sqrt(self.size * shape[0] * shape[1])), 1), *shape[:2])

    def settings_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """See `Attack.settings_for`: also the side in pixels."""
        return self.settings() | {"side": self.side(shape)}

    def traced(self) -> Patch:
        """See `IterativeAttack.traced`."""
        return Patch()

    def rounds(self, classes: int) -> int:
        """See `IterativeAttack.rounds`."""
        return self.restarts

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        return Passes(1, 2, 1)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        shape = tuple(images.x.shape[1:])
        free = [n - self.side(shape) + 1 for n in shape[:2]]

        def draw(generator: np.random.Generator) -> np.ndarray:
            return np.append(generator.random(shape, np.float32), generator.integers(free))

        drawn = randomness.drawn(draw, seed, randomness.START, images.numbers, rounds)
        content = bounds.low + (bounds.high - bounds.low) * drawn[:, :-2].reshape(-1, *shape).astype(np.float32)
        keys = randomness.keys(seed, images.numbers, rounds)
        return State(images.x, images.y, content, tf.constant(drawn[:, -2:].astype(np.int32)), keys)

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        return Inputs(bounds, tf.constant(self.side(shape)), tf.constant(self.step_size, tf.float32))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """A step of the content, then one of the place."""
        (_, low, high, *_), side = inputs.bounds, inputs.side
        image = _patched(state, side)
        logits, grad = gradient.logits_and_gradient(model, image, state.y, loss=losses.margin)
        adversarial, margin = gradient.is_adversarial(logits, state.y), losses.margin(logits, state.y)
        content = tf.clip_by_value(state.content + inputs.step_size * gradient.sign(grad), low, high)
        stays = state._replace(content=content)
        free = tf.cast(tf.stack(state.x.shape[1:3]) - side + 1, tf.float32)
        place = randomness.uniform(randomness.fold(state.keys, i), (2,))
        moves = stays._replace(corner=tf.cast(place * free, tf.int32))
        before, after = (gradient.logits_of(model, _patched(each, side)) for each in (stays, moves))
        rises = losses.margin(after, state.y) > losses.margin(before, state.y)
        corner = tf.where(rises[:, None], moves.corner, stays.corner)
        return Step(stays._replace(corner=corner), image, tf.where(adversarial, ADVERSARIAL, -margin), adversarial)

    def last(self, model: Any, inputs: Inputs, state: State) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`."""
        image = _patched(state, inputs.side)
        logits = gradient.logits_of(model, image)
        adversarial = gradient.is_adversarial(logits, state.y)
        return image, tf.where(adversarial, ADVERSARIAL, -losses.margin(logits, state.y))


def _patched(state: State, side: tf.Tensor) -> tf.Tensor:
    """The images with their patches, float32 (M, H, W, C)."""
    offsets = [tf.range(n)[None] - state.corner[:, axis, None] for axis, n in enumerate(state.x.shape[1:3])]
    rows, columns = ((0 <= each) & (each < side) for each in offsets)
    return choose((rows[:, :, None] & columns[:, None])[..., None], state.content, state.x)
