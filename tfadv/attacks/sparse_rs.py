"""Sparse-RS (Croce et al. 2020, https://arxiv.org/abs/2006.12834): random search over a few pixels, no gradient."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses, randomness
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.iterative import ScoreSearch
from tfadv.attacks.loop import Step, score
from tfadv.attacks.norms import choose
from tfadv.specs import setting

# By what the share of the first query is divided after so many of 10,000 queries.
_AFTER = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


class Inputs(NamedTuple):
    """What all steps share: the bounds, how many pixels change, int32 (), and how many each query moves, (steps,)."""

    bounds: Bounds
    pixels: tf.Tensor
    moved: tf.Tensor


class State(NamedTuple):
    """Clean images, labels, the best images, which of their pixels are changed, their objectives, and keys."""

    x: tf.Tensor
    y: tf.Tensor
    best: tf.Tensor
    changed: tf.Tensor  # bool (M, H · W)
    objective: tf.Tensor
    keys: tf.Tensor  # int64 (M,), for random numbers


@dataclasses.dataclass(frozen=True)
class SparseRS(ScoreSearch):
    """Random search that sees only the logits and changes at most eps pixels, each in all channels.

    A changed pixel has the least or the greatest value in each channel.  Each step restores some of the changed pixels
    and changes as many others, and keeps this where the margin max_{j≠y} z_j - z_y rises; with a target, where the
    cross-entropy of the target falls.

    Attributes:
      norm: "pixels": eps is a number of pixels.
      steps: maximum number of queries (forward passes) per image, for each eps and restart.
      restarts: number of searches, each from a new start.
      alpha_init: the share of the eps pixels that the first steps move; it falls to a twentieth, on a schedule that is
        scaled to `steps`.
      targeted: True moves the images to class y instead of away from it.
    """

    norm: str = setting("pixels", choices=("pixels",))
    steps: int = setting(10000, least=1)
    restarts: int = setting(1, least=1)
    alpha_init: float = setting(0.3, above=0, most=1)
    targeted: bool = False

    @property
    def name(self) -> str:
        """See `Spec.name`."""
        return "sparse-rs"

    def traced(self) -> SparseRS:
        """See `IterativeAttack.traced`."""
        return SparseRS()

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`; eps random pixels of random colors."""
        height, width, channels = images.x.shape[1:]
        number = int(bounds.eps)

        def draw(generator: np.random.Generator) -> np.ndarray:
            chosen = generator.permutation(height * width) < number
            return np.concatenate([chosen[:, None], generator.random((height * width, channels))], axis=1)

        drawn = randomness.drawn(draw, seed, randomness.START, images.numbers, rounds)
        changed, colors = tf.constant(drawn[..., 0] > 0), tf.constant(drawn[..., 1:].astype(np.float32))
        best = _recolored(images.x, images.x, changed, colors, bounds)
        keys = randomness.keys(seed, images.numbers, rounds)
        return State(images.x, images.y, best, changed, tf.fill([len(images.y)], tf.float32.min), keys)

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        number = int(bounds.eps)
        moved = np.minimum(moved_pixels(self.steps, number, self.alpha_init), number)
        return Inputs(bounds, tf.constant(number), tf.constant(moved))

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithms 1 and 2 of the paper; the first query is the start itself."""
        number, moved, (_, height, width, channels) = inputs.pixels, inputs.moved[i], state.x.shape
        pixels, targeted = height * width, inputs.bounds.targeted
        numbers = randomness.uniform(randomness.fold(state.keys, i), (pixels, 1 + channels))
        # In random order, first the changed pixels, then the others: their places in this order.
        place = tf.argsort(tf.argsort(numbers[..., 0] - tf.cast(state.changed, tf.float32), axis=1), axis=1)
        restored, added = place < moved, (place >= number) & (place < number + moved)
        added |= place < moved - (pixels - number)  # where too few others are left: new colors
        image = _where(restored, state.x, state.best)
        image = _recolored(image, state.x, added, numbers[..., 1:], inputs.bounds)
        first = i == 0
        image = choose(first, state.best, image)
        changed = tf.where(first, state.changed, (state.changed & ~restored) | added)
        logits = gradient.logits_of(model, image)
        margin, entropy = losses.margin(logits, state.y), losses.cross_entropy(logits, state.y)
        objective = tf.where(targeted, -entropy, margin)
        adversarial, rises = gradient.is_adversarial(logits, state.y, targeted), objective > state.objective
        next_state = state._replace(
            best=choose(rises, image, state.best),
            changed=choose(rises, changed, state.changed),
            objective=tf.where(rises, objective, state.objective),
        )
        return Step(next_state, image, score(adversarial), adversarial)


def moved_pixels(queries: int, number: int, share: float) -> np.ndarray:
    """int32 (queries,): how many of the changed pixels each query moves, at least one."""
    divisors = np.array(_DIVISORS)[np.searchsorted(_AFTER, np.arange(queries) * 10000 // queries)]
    return np.maximum(share / divisors * number, 1).astype(np.int32)


def _recolored(image: tf.Tensor, x: tf.Tensor, which: tf.Tensor, numbers: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """The images with new colors, which no pixel has in x, at some pixels.

    Args:
      image, x: float32 (M, H, W, C).
      which: bool (M, H · W).
      numbers: float32 (M, H · W, C), uniform in [0, 1).
      bounds: of the colors.
    """
    high = tf.reshape(numbers < 0.5, tf.shape(x))
    lowest, highest = (tf.fill(tf.shape(x), bound) for bound in (bounds.low, bounds.high))
    color = choose(high, highest, lowest)
    same = tf.reduce_all(color == x, axis=3, keepdims=True)
    return _where(which, choose(same, choose(high, lowest, highest), color), image)


def _where(which: tf.Tensor, image: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Of images (M, H, W, C), the first at some pixels, bool (M, H · W), and the other elsewhere."""
    return choose(tf.reshape(which, (-1, *image.shape[1:3], 1)), image, other)
