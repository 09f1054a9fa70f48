"""Attacks of several steps: several eps with early stopping, rounds, and the search in bfloat16."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import loop, losses
from tfadv.attacks.base import Attack, Bounds, Call, Images, to_attack
from tfadv.attacks.gradient import compiled_logits, is_adversarial, logits_of
from tfadv.attacks.norms import choose, get_norm
from tfadv.attacks.randomness import START, drawn
from tfadv.models.expectation import Expectation
from tfadv.runtime import compilation

CONFIRMATIONS = 3  # of a random model: how often an image that new passes classify correctly is attacked again


class Passes(NamedTuple):
    """Passes through the model per image: gradients and forwards in each step, and forwards after the last step."""

    gradients: int
    forwards: int
    forwards_at_end: int


class IterativeAttack(Attack):
    """An attack that repeats a step, from one start or several, until an image is adversarial.

    At each eps, only images that were not adversarial at a smaller eps are attacked.
    The others keep their adversarial image at all larger eps.  An image that is
    misclassified before the attack, or on which the attack fails, is returned unchanged; without an eps, where the
    attack fails, it is the image of the best score.

    A subclass has a setting `steps` and the methods below.  `start` runs in
    Python, `step` and `last` inside of a graph.  The graph is compiled for the
    settings of `traced()`; other settings reach it as tensors, see `inputs`.

    A subclass with `precision_setting` can search in bfloat16.  The search stops at the first image that fools the
    clone.  If this image does not fool the model in float32, the round is repeated for it in float32.  A score of
    `loop.ADVERSARIAL` has to mean adversarial, and no other score may.
    """

    steps: int

    concurrent_rounds = True  # whether rounds may run at the same time, each on a copy of the image

    def traced(self) -> IterativeAttack:
        """This attack with a fixed value for each setting that `step` and `last` do not read from `self`.

        Attacks that are equal here share one compiled graph.
        """
        return self

    def rounds(self, classes: int) -> int:
        """How many rounds (restarts, targets) at most, for a model with this many classes."""
        return 1

    def passes(self, classes: int) -> Passes:
        """The passes through the model of one image."""
        return Passes(1, 0, 1)

    def draw(self, number: int, shape: tuple[int, ...], seed: int) -> Any:
        """Random numbers that all images share in `number` rounds, `shape` is (H, W, C): a nest of tensors.

        They are drawn outside of the graph, because XLA would draw others.
        """
        return ()

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> Any:
        """The state of images (M) before the first step, each in its round, int32 (M,): a nest of tensors with M rows.

        The first tensor of the nest holds images.  Random starts are drawn for each image: `starting_points`.
        """
        raise NotImplementedError

    def inputs(self, bounds: Bounds, shape: tuple[int, ...], random: Any, first_round: int) -> Any:
        """What the steps of a round share: a nest of tensors."""
        return bounds

    def step(self, model: Any, inputs: Any, i: tf.Tensor, state: Any) -> loop.Step:
        """One step; must treat each image by itself."""
        raise NotImplementedError

    def last(self, model: Any, inputs: Any, state: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The (images, scores) of images for which no step reported `done`."""
        raise NotImplementedError

    def starting_points(self, images: Images, rounds: np.ndarray, seed: int) -> np.ndarray:
        """float32 (M, H, W, C), uniform in the ball of radius 1 of the attack's norm."""
        norm, shape = get_norm(getattr(self, "norm", "linf")), tuple(images.x.shape[1:])
        return drawn(lambda generator: norm.sample(shape, generator), seed, START, images.numbers, rounds)

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`."""
        images = Images(x, y, call.numbers, compiled_logits(call.model, x))
        call.cost.add(forwards=len(y))
        adversarial, active = x, to_attack(call, images.logits, y)
        results: dict[int, tf.Tensor] = {}
        for k in np.argsort(sizes, kind="stable"):
            candidates, scores = self.run(call, images, active.numpy(), call.bounds(sizes[k]))
            success = active & (scores <= loop.ADVERSARIAL)
            taken = success if self.has_eps else active
            adversarial = choose(taken, candidates, adversarial)
            active &= ~success
            results[k] = adversarial
        return tf.stack([results[k] for k in range(len(results))])

    def run(
        self, call: Call, images: Images, active: np.ndarray, bounds: Bounds, capacity: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """All rounds at one eps on the active images; adds to `call.cost`.

        Args:
          call: the call.
          images: N images; the logits may be None where `start` does not need them.
          active: bool (N,).
          bounds: eps and the like.
          capacity: how many copies of images may be attacked at once; N where it is None.

        Returns:
          (images (N, H, W, C), scores (N,)), undefined where not active.
        """
        shape, classes = tuple(images.x.shape[1:]), self._resolve(call, images)
        number, passes, traced = self.rounds(classes), self.passes(classes), self.traced()
        random = self.draw(number, shape, call.seed)
        search_model = call.model if self.precision == "float32" else call.search_model
        compact = not compilation.use_xla()

        def attempt_on(model, rounds, rows, active):
            state = self.start(images.take(rows), rounds, bounds, call.seed)
            inputs = self.inputs(bounds, shape, random, int(rounds[0]))
            result = loop.run_unit(model, traced, inputs, state, self.steps, rows, active, call.resume)
            call.cost.add(
                gradients=passes.gradients * result.visits,
                forwards=passes.forwards * result.visits + passes.forwards_at_end * result.finished,
            )
            return result.images, result.scores

        def attempt(rounds, rows, active):
            found, scores = attempt_on(search_model, rounds, rows, active)
            if search_model is call.model:
                return found, scores
            false, again = self._false_positives(call, (found, scores), images.y, rows)
            scores, again = tf.where(false, loop.NOT_ADVERSARIAL, scores), again & active
            if not again.any():
                return found, scores
            chosen = np.flatnonzero(again) if compact else np.arange(len(rows))
            repeated = attempt_on(call.model, rounds[chosen], rows[chosen], again[chosen])
            return loop.replace_rows((found, scores), chosen, again[chosen], repeated)

        capacity, goal = (capacity or len(active)) if self.concurrent_rounds else 1, float(bounds.goal)
        best = loop.run_rounds(attempt, number, images.x, active, goal, capacity, compact=compact)
        for left in range(CONFIRMATIONS, -1, -1) if isinstance(call.model, Expectation) else ():
            false, _ = self._false_positives(call, best, images.y, np.arange(len(active)))
            best = best[0], tf.where(false, loop.NOT_ADVERSARIAL, best[1])
            if not left or not (false & active).any():
                break
            again = loop.run_rounds(attempt, number, images.x, active & false, goal, capacity, compact=compact)
            best = loop.replace_rows(best, np.arange(len(active)), active & false, again)
        return best

    def _false_positives(self, call: Call, found: tuple, y: tf.Tensor, rows: np.ndarray) -> tuple:
        """Two bool (M,).

        The first: rows whose score says adversarial, but which do not fool the model in float32, or in new passes of a
        random model.  The second: every row of an image with such a row, unless another of its rows fools the model.
        These are attacked again.
        """
        images, scores = found
        claimed = scores.numpy() <= loop.ADVERSARIAL
        call.cost.add(forwards=len(rows) if claimed.any() else 0)
        saved = call.resume.load() if call.resume else None  # another rounding must not change what follows in the log
        if saved:
            return tuple(saved[1])
        fools = np.zeros(len(rows), bool)
        if claimed.any():
            logits = compiled_logits(call.model, images)
            fools = is_adversarial(logits, tf.gather(y, rows), call.targeted).numpy()
        false = claimed & ~fools
        again = np.isin(rows, rows[false]) & ~np.isin(rows, rows[claimed & fools])
        if call.resume:
            call.resume.done([false, again])
        return false, again

    def _resolve(self, call: Call, images: Images) -> int:
        """The number of classes; notes in the cost where they are too few for the attack's loss."""
        loss = getattr(self, "loss", None)
        logits = compiled_logits(call.model, images.x[:1]) if images.logits is None else images.logits
        if loss is not None:
            call.cost.add_fallback(loss, losses.resolve_loss(loss, logits.shape[-1]))
        return logits.shape[-1]


class ScoreSearch(IterativeAttack):
    """A random search that sees the logits only; each step classifies its images.

    Its state has the fields `y` and `best`, the labels and the best images so far, and its inputs have `bounds`.
    """

    uses_gradient = False
    needs_scores = True
    restarts: int

    def rounds(self, classes: int) -> int:
        """See `IterativeAttack.rounds`."""
        return self.restarts

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        return Passes(0, 1, 0)

    def last(self, model: Any, inputs: Any, state: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """See `IterativeAttack.last`; only a random model has to classify the images once more."""
        if isinstance(model, Expectation):
            adversarial = is_adversarial(logits_of(model, state.best), state.y, inputs.bounds.targeted)
        else:
            adversarial = tf.zeros_like(state.y, tf.bool)
        return state.best, loop.score(adversarial)
