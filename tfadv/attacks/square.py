"""Square Attack (Andriushchenko et al. 2019, https://arxiv.org/abs/1912.00049): random search, no gradient."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses, squares
from tfadv.attacks.base import Bounds, Images, precision_setting
from tfadv.attacks.iterative import ScoreSearch
from tfadv.attacks.loop import Step, score
from tfadv.attacks.norms import NORMS, choose, get_norm
from tfadv.attacks.randomness import START, drawn
from tfadv.specs import setting


class Inputs(NamedTuple):
    """What all steps share: the bounds, and for each query the side of its square, its bumps and random numbers."""

    bounds: Bounds
    sides: tf.Tensor  # int32 (steps,)
    bumps: tf.Tensor  # float32 (S, 2, H, W)
    which_bumps: tf.Tensor  # int32 (steps,)
    numbers: tf.Tensor  # float32 (steps, 5 + C)


class State(NamedTuple):
    """Clean images, labels, the best images and their margins."""

    x: tf.Tensor
    y: tf.Tensor
    best: tf.Tensor
    margin: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Square(ScoreSearch):
    """Random search that sees only the logits: a check for masked gradients.

    Each step changes a square of the image and keeps the change where the
    margin max_{j≠y} z_j - z_y rises.

    Attributes:
      norm: "linf", "l2" or "l1".
      steps: maximum number of queries (forward passes) per image, for each eps and restart.
      restarts: number of searches, each from a new start.
      targeted: True moves the images to class y instead of away from it.
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    steps: int = setting(5000, least=1)
    restarts: int = setting(1, least=1)
    targeted: bool = False
    precision: str = precision_setting()

    concurrent_rounds = False  # all images share the squares of a round

    def traced(self) -> Square:
        """See `IterativeAttack.traced`."""
        return Square(norm=self.norm)

    def draw(self, number: int, shape: tuple[int, ...], seed: int) -> tf.Tensor:
        """The numbers of all queries, float32 (number · steps, 5 + C): as in auto-attack, all images share a square."""
        return tf.random.stateless_uniform((number * self.steps, 5 + shape[2]), tf.constant((seed, 1), tf.int64))

    def starting_points(self, images: Images, rounds: np.ndarray, seed: int) -> np.ndarray:
        """float32 (M, H, W, C): stripes of ±1, or a grid of bumps."""
        shape, start = tuple(images.x.shape[1:]), squares.stripes
        if self.norm != "linf":
            start = functools.partial(squares.grid, norm=self.norm)
        return drawn(lambda generator: start(shape, generator), seed, START, images.numbers, rounds)

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        x, (eps, low, high, *_) = images.x, bounds
        # In L1, auto-attack's start does not depend on eps: the projection leaves the peaks of the bumps.
        size = high - low if self.norm == "l1" else eps
        best = get_norm(self.norm).project(x + size * self.starting_points(images, rounds, seed), x, eps, low, high)
        return State(x, images.y, best, tf.fill([len(images.y)], tf.float32.min))

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Inputs:
        """See `IterativeAttack.inputs`."""
        (height, width, _), least = shape, 1 if self.norm == "linf" else 3
        sides = squares.side_lengths(self.steps, height, width, least)
        numbers = random[first_round * self.steps : (first_round + 1) * self.steps]
        return Inputs(bounds, sides, *squares.padded_bumps(sides, height, width, self.norm), numbers)

    def step(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> Step:
        """Algorithm 1 of the paper; the first query is the start itself."""
        (eps, low, high, targeted, _), norm = inputs.bounds, get_norm(self.norm)
        query = state.x, state.best, eps, inputs.sides[i], inputs.numbers[i]
        if self.norm == "linf":
            candidate = squares.propose_linf(*query)
        else:
            candidate = squares.propose_bumps(*query, inputs.bumps[inputs.which_bumps[i]], self.norm)
        candidate = norm.project(candidate, state.x, eps, low, high)
        candidate = choose(i > 0, candidate, state.best)
        logits = gradient.logits_of(model, candidate)
        margin = tf.where(targeted, -1.0, 1.0) * losses.margin(logits, state.y)
        adversarial = gradient.is_adversarial(logits, state.y, targeted)
        best = choose(margin > state.margin, candidate, state.best)
        next_state = state._replace(best=best, margin=tf.maximum(margin, state.margin))
        return Step(next_state, candidate, score(adversarial), adversarial)
