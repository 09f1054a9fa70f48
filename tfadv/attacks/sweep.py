"""Attacks that consist of others: each part runs only on the images that are not yet adversarial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Attack, Call, Images, to_attack
from tfadv.attacks.fab import FAB
from tfadv.attacks.gradient import compiled_has_gradient
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.loop import ADVERSARIAL
from tfadv.models.compiled import compiled_logits
from tfadv.runtime import compilation

_CHECKED = 32  # images


class AttackOfParts(Attack):
    """Runs its parts one after the other, at one eps after the other.

    The remaining images are regrouped into full batches, so pass many images at once.  An
    image that is adversarial at one eps counts as adversarial at all larger ones.
    A subclass defines the methods below.
    """

    def number_of_parts(self) -> int:
        """How many entries `parts` yields."""
        raise NotImplementedError

    def parts(self, sweep: Sweep, eps: tf.Tensor) -> Iterator[tuple[str, int]]:
        """Runs the parts at one eps; yields after each its name and the number of images that remain, for `Cost`."""
        raise NotImplementedError

    def attack_images(
        self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor, batch_size: int, progress: Callable[[int], Any]
    ) -> tf.Tensor:
        """See `Attack.attack_images`; `progress` counts each part at each eps alike, however long it takes."""
        sweep = Sweep(call, x, y, tf.reduce_max(sizes), batch_size)
        results, stages, stage = {}, len(sizes) * self.number_of_parts(), 0
        for k in np.argsort(sizes, kind="stable"):
            for name, count in self.parts(sweep, sizes[k]):
                call.cost.remaining.setdefault(name, [0] * len(sizes))[k] += count
                stage += 1
                progress(len(y) * stage // stages - len(y) * (stage - 1) // stages)
            results[k] = sweep.adversarial.copy()
        return tf.stack([results[k] for k in range(len(sizes))])


class Sweep:
    """The images of a call, which of them remain to be attacked, and the adversarial images of the others.

    Attributes:
      call: the call.
      images: all images, without their logits.
      largest: float32 (), the largest eps.
      logits: float32 (N, K), the logits.
      adversarial: float32 (N, H, W, C), the image itself where none was found.
      remaining: bool (N,), not yet adversarial.
    """

    def __init__(self, call: Call, x: tf.Tensor, y: tf.Tensor, largest: tf.Tensor, batch_size: int) -> None:
        """Classifies the images."""
        self.call, self.largest, self._batch_size = call, largest, batch_size
        batches = self._batches(np.arange(len(y)))
        self.logits = np.concatenate(
            [compiled_logits(call.model, tf.gather(x, padded))[:n] for _, n, padded in batches]
        )
        call.cost.add(forwards=len(y))
        self.images = Images(x, y, call.numbers)
        self._nearest: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # of FAB: images and distances, NaN: not attacked
        self.adversarial = x.numpy()
        self.remaining = to_attack(call, tf.constant(self.logits), y).numpy()

    def run(
        self, attack: IterativeAttack, eps: tf.Tensor, among: np.ndarray | None = None, order: np.ndarray | None = None
    ) -> np.ndarray:
        """Attacks images that remain.

        Args:
          attack: the attack.
          eps: float32 ().
          among: bool (N,), the images to attack, or None for all.
          order: float32 (N, K), the order of the targets, the greatest first, or None for that of the logits.

        Returns:
          float32 (N,): the scores of the attack, NaN where it did not run.
        """
        rows = np.flatnonzero(self.remaining if among is None else self.remaining & among)
        images, scores = self.images.x.numpy(), np.full(len(self.remaining), np.nan, np.float32)
        images[rows], scores[rows] = self._attack(attack, rows, eps, ADVERSARIAL, order)
        self._keep(np.flatnonzero(scores <= ADVERSARIAL), images)
        return scores

    def lacks_gradient(self, among: np.ndarray) -> bool:
        """Whether the margin of one of the first `_CHECKED` images that remain, of those among, has no gradient."""
        rows = np.flatnonzero(self.remaining & among)[:_CHECKED]
        if not len(rows):
            return False
        x, y = (tf.gather(part, np.resize(rows, _CHECKED)) for part in (self.images.x, self.images.y))
        self.call.cost.add(gradients=len(rows))
        return not compiled_has_gradient(self.call.model, x, y, loss="cw").numpy().all()

    def run_for_all_eps(self, name: str, attack: FAB, eps: tf.Tensor) -> None:
        """Attacks the images that remain with FAB, whose walk is the same for all eps: each of them once."""
        images, distances = self._nearest.setdefault(
            name, (self.images.x.numpy(), np.full(len(self.remaining), np.nan, np.float32))
        )
        rows = np.flatnonzero(self.remaining & np.isnan(distances))
        images[rows], distances[rows] = self._attack(attack, rows, self.largest, eps)
        self._keep(np.flatnonzero(self.remaining & (distances <= eps)), images)

    def _keep(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.adversarial[rows], self.remaining[rows] = images[rows], False

    def _attack(self, attack: IterativeAttack, rows: np.ndarray, eps: tf.Tensor, goal: Any, order: Any = None) -> tuple:
        """(images, scores) of these rows."""
        whole = self.images._replace(logits=tf.constant(self.logits if order is None else order))
        images, scores = self.images.x.numpy()[rows], np.zeros(len(rows), np.float32)
        for start, n, padded in self._batches(rows):
            active = np.arange(len(padded)) < n  # rows that only fill the batch are not attacked
            bounds = self.call.bounds(eps, goal)
            results = attack.run(self.call, whole.take(padded), active, bounds, capacity=self._batch_size)
            images[start : start + n], scores[start : start + n] = (result.numpy()[:n] for result in results)
        return images, scores

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(start, number, rows) of batches of similar length, filled up where XLA would compile each length anew."""
        start = 0
        for batch in np.array_split(rows, max(1, -(-len(rows) // self._batch_size))) if len(rows) else ():
            full = np.resize(batch, self._batch_size) if compilation.use_xla() else batch
            yield start, len(batch), full
            start += len(batch)
