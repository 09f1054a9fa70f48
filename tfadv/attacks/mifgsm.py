"""The momentum iterative FGSM (Dong et al. 2017, https://arxiv.org/abs/1710.06081), and what makes it transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, randomness
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.iterative import Passes
from tfadv.attacks.norms import finite
from tfadv.attacks.pgd import Inputs, IteratedGradient, State
from tfadv.attacks.transfer import numbers_of_blocks, shrunk, shuffled, smoothed
from tfadv.specs import setting

RADIUS = 1.5  # of the neighbourhood, in units of eps


class Memory(NamedTuple):
    """`State.more`: the images' keys for random numbers, and how the gradient differed around the image before."""

    keys: tf.Tensor  # int64 (M,)
    variance: tf.Tensor  # float32 (M, H, W, C)


@dataclasses.dataclass(frozen=True)
class MIFGSM(IteratedGradient):
    """Steps along the sign of a running sum of gradients, each divided by its own L1 norm.

    Algorithm 1: g ← decay · g + ∇ / ||∇||₁, x ← x + step_size · sign(g).  The sum
    keeps its direction where single gradients fluctuate, and so transfers better to
    other models.  With decay 0 it is `BIM`.

    The settings from `diversity` on take other gradients, so that images fool models other than the one attacked.  They
    can be combined.  Images for another model need `early_stop=False`: those that just fool this one transfer less.

    Attributes:
      decay: how much of the sum is kept at each step.
      steps, early_stop, targeted: see `IteratedGradient`.
      step_size: in units of x; None means eps / steps, as in the paper.
      diversity: how probable it is that an image is made smaller before its gradient is computed (DI, Xie et al. 2018,
        https://arxiv.org/abs/1803.06978: 0.5).
      kernel: the side, in pixels, of the Gaussian that smooths gradients; 1 is none (TI, Dong et al. 2019,
        https://arxiv.org/abs/1904.02884: 15, at 299 pixels).
      scales: number of copies x, x / 2, x / 4, … whose gradients are averaged (SI, Lin et al. 2019,
        https://arxiv.org/abs/1908.06281: 5).
      neighbours: number of random images around x, within 1.5 · eps, whose mean gradient corrects that of the next step
        (VMI, Wang & He 2021, https://arxiv.org/abs/2103.15571: 20).
      blocks: number of blocks along each side that are shuffled and rotated; 1 is none (BSR, Wang et al. 2023,
        https://arxiv.org/abs/2308.10299: 2).
      copies: number of such shuffled images whose gradients are averaged.
    """

    decay: float = setting(1.0, least=0)
    diversity: float = setting(0.0, least=0, most=1)
    kernel: int = setting(1, least=1)
    scales: int = setting(1, least=1)
    neighbours: int = setting(0, least=0)
    blocks: int = setting(1, least=1)
    copies: int = setting(20, least=1)

    def __post_init__(self) -> None:
        """Checks that the kernel has a centre."""
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that it has a centre, got {self.kernel}.")

    def traced(self) -> MIFGSM:
        """See `IterativeAttack.traced`."""
        return dataclasses.replace(self, steps=1, step_size=None, targeted=False, precision="float32", decay=0.0)

    def passes(self, classes: int) -> Passes:
        """See `IterativeAttack.passes`."""
        gradients = self._shuffles * self.scales * (1 + self.neighbours)
        asks = self.early_stop and (self._changes or self.neighbours > 0)
        return Passes(gradients, int(asks), super().passes(classes).forwards_at_end)

    @property
    def repeats(self) -> bool:
        """See `IteratedGradient.repeats`."""
        return super().repeats and not self._remembers

    def start(self, images: Images, rounds: np.ndarray, bounds: Bounds, seed: int) -> State:
        """See `IterativeAttack.start`."""
        state = super().start(images, rounds, bounds, seed)
        if not self._remembers:
            return state
        return state._replace(more=Memory(randomness.keys(seed, images.numbers, rounds), tf.zeros_like(images.x)))

    def default_step_size(self, eps: tf.Tensor) -> tf.Tensor:
        """See `IteratedGradient.default_step_size`."""
        return eps / self.steps

    def ascent(self, model: Any, inputs: Inputs, i: tf.Tensor, state: State) -> tuple[Any, tf.Tensor, Any]:
        """See `IteratedGradient.ascent`; with neighbours, algorithm 1 of Wang & He (2021)."""
        if not (self._changes or self.neighbours):
            logits, grad, more = super().ascent(model, inputs, i, state)
            return logits, smoothed(grad, self.kernel), more
        objective = self._objective(inputs.bounds.targeted)
        key = randomness.fold(state.more.keys, i) if self._remembers else None

        def mean_gradient(x: tf.Tensor, number: Any) -> tf.Tensor:
            own = None if key is None else randomness.fold(key, number)
            return self._mean_gradient(model, x, state.y, objective, own, inputs.bounds.low)

        def around(k: tf.Tensor) -> tf.Tensor:
            noise = randomness.uniform(randomness.fold(key, 2 * k + 1), tuple(state.at.shape[1:]))
            return mean_gradient(state.at + RADIUS * inputs.bounds.eps * (2 * noise - 1), 2 * k + 2)

        logits = gradient.logits_of(model, state.at) if self.early_stop else None
        grad, more = mean_gradient(state.at, 0), state.more
        if self._remembers:
            followed = grad + more.variance
            if self.neighbours:
                more = more._replace(variance=_mean(self.neighbours, around, grad) - grad)
            grad = followed
        return logits, smoothed(grad, self.kernel), more

    def _mean_gradient(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, objective: Any, key: Any, black: tf.Tensor
    ) -> tf.Tensor:
        """float32 (M, H, W, C): the mean over changed copies of x, with the random numbers of a key."""

        def of_scale(changed: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
            factor = tf.pow(0.5, tf.cast(k, tf.float32))
            return factor * finite(gradient.logits_and_gradient(model, factor * changed, y, loss=objective)[1])

        def of_copy(k: tf.Tensor) -> tf.Tensor:
            if not (self.diversity or self.blocks > 1):
                return _mean(self.scales, lambda scale: of_scale(x, scale), x)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                changed = black + self._changed(x - black, randomness.fold(key, k))
            of_changed = _mean(self.scales, lambda scale: of_scale(changed, scale), x)
            return tape.gradient(changed, x, output_gradients=of_changed)

        return _mean(self._shuffles, of_copy, x)

    def _changed(self, x: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Images (M, H, W, C) whose black is 0, shuffled and shrunk."""
        if self.blocks > 1:
            numbers = randomness.uniform(randomness.fold(key, 0), (numbers_of_blocks(self.blocks),))
            x = shuffled(x, numbers, self.blocks)
        if self.diversity:
            x = shrunk(x, randomness.uniform(randomness.fold(key, 1), (4,)), self.diversity)
        return x

    @property
    def _shuffles(self) -> int:
        return self.copies if self.blocks > 1 else 1

    @property
    def _changes(self) -> bool:
        """Whether gradients are those of other images than x."""
        return self.diversity > 0 or self.scales > 1 or self.blocks > 1

    @property
    def _remembers(self) -> bool:
        """Whether there is a `Memory`."""
        return self.diversity > 0 or self.neighbours > 0 or self.blocks > 1


def _mean(n: int, of: Callable[[tf.Tensor], tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """The mean of `of(k)`, in the shape of `like`, for k from 0 to n - 1, one after the other: in the memory of one."""
    if n == 1:
        return of(tf.constant(0))
    add = tf.while_loop(
        lambda k, _: k < n, lambda k, total: (k + 1, total + of(k)), (tf.constant(0), tf.zeros_like(like))
    )
    return add[1] / n
