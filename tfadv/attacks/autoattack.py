"""AutoAttack (Croce & Hein 2020, https://arxiv.org/abs/2003.01690): four attacks, the worst of them for each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.apgd import APGD
from tfadv.attacks.base import Attack, Call, Images, precision_setting, to_attack
from tfadv.attacks.fab import FAB
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.loop import ADVERSARIAL
from tfadv.attacks.norms import NORMS
from tfadv.attacks.square import Square
from tfadv.models.compiled import compiled_logits
from tfadv.runtime import compilation
from tfadv.specs import setting

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
PARTS = (*STANDARD, "apgd-dlr", "fab")


@dataclasses.dataclass(frozen=True)
class AutoAttack(Attack):
    """APGD-CE, APGD-T, FAB-T and Square Attack, in this order, with their standard settings.

    Each attack runs only on the images that are not yet adversarial, regrouped into
    full batches, so pass many images at once.  An image that is adversarial at one
    eps counts as adversarial at all larger ones, and FAB runs once for all eps.
    `Cost.remaining` holds the number of images that each attack left.

    Attributes:
      norm: "linf" or "l2".
      attacks: some of `PARTS`, in the order in which they run; or their names joined by "+".
      steps: number of steps of APGD and FAB.
      restarts: number of restarts of each attack (and target).
      targets: number of target classes of APGD-T and FAB-T; at most K - 1 are used.
      queries: number of queries of Square Attack.
      precision: "float32" or "mixed_bfloat16", of the search; FAB always searches in float32, and which images are
        adversarial is decided in float32.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    attacks: tuple[str, ...] = setting(STANDARD, choices=PARTS)
    steps: int = setting(100, least=1)
    restarts: int = setting(1, least=1)
    targets: int = setting(9, least=1)
    queries: int = setting(5000, least=1)
    precision: str = precision_setting()

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`; all parts must do."""
        return all(self.part(name).takes_random for name in self.attacks)

    def part(self, name: str) -> IterativeAttack:
        """One of the attacks, with its settings."""
        common: dict[str, Any] = {"norm": self.norm, "restarts": self.restarts}
        if name.startswith("fab"):
            return FAB(steps=self.steps, targets=self.targets if name == "fab-t" else 0, **common)
        common["precision"] = self.precision
        if name == "square":
            return Square(steps=self.queries, **common)
        losses = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-t"}
        return APGD(loss=losses[name], steps=self.steps, targets=self.targets, **common)

    def attack_images(
        self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor, batch_size: int, progress: Callable[[int], Any]
    ) -> tf.Tensor:
        """See `Attack.attack_images`; `progress` counts each attack at each eps alike, however long it takes."""
        sweep = _Sweep(call, x, y, batch_size)
        results, stages, stage = {}, len(sizes) * len(self.attacks), 0
        for k in np.argsort(sizes, kind="stable"):
            for name in self.attacks:
                sweep.run(name, self.part(name), sizes[k])
                call.cost.remaining.setdefault(name, [0] * len(sizes))[k] += int(sweep.remaining.sum())
                stage += 1
                progress(len(y) * stage // stages - len(y) * (stage - 1) // stages)
            results[k] = sweep.adversarial.copy()
        return tf.stack([results[k] for k in range(len(sizes))])


class _Sweep:
    """The images of a call, which of them remain to be attacked, and the adversarial images of the others."""

    def __init__(self, call: Call, x: tf.Tensor, y: tf.Tensor, batch_size: int) -> None:
        self._call, self._batch_size = call, batch_size
        batches = self._batches(np.arange(len(y)))
        logits = np.concatenate([compiled_logits(call.model, tf.gather(x, padded))[:n] for _, n, padded in batches])
        call.cost.add(forwards=len(y))
        self._images = Images(x, y, call.numbers, tf.constant(logits))
        self._nearest: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # of FAB: images and distances, NaN: not attacked
        self.adversarial = x.numpy()
        self.remaining = to_attack(call, logits, y).numpy()

    def run(self, name: str, attack: IterativeAttack, eps: tf.Tensor) -> None:
        """Attacks the images that remain."""
        if isinstance(attack, FAB):
            images, distances = self._nearest.setdefault(
                name, (self._images.x.numpy(), np.full(len(self.remaining), np.nan, np.float32))
            )
            rows = np.flatnonzero(self.remaining & np.isnan(distances))
            images[rows], distances[rows] = self._attack(attack, rows, eps, goal=eps)
            rows = np.flatnonzero(self.remaining & (distances <= eps))
            self._keep(rows, images[rows])
        else:
            rows = np.flatnonzero(self.remaining)
            images, scores = self._attack(attack, rows, eps, goal=ADVERSARIAL)
            self._keep(rows[scores <= ADVERSARIAL], images[scores <= ADVERSARIAL])

    def _keep(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.adversarial[rows], self.remaining[rows] = images, False

    def _attack(self, attack: IterativeAttack, rows: np.ndarray, eps: tf.Tensor, goal: Any) -> tuple:
        """(images, scores) of these rows."""
        images, scores = self._images.x.numpy()[rows], np.zeros(len(rows), np.float32)
        for start, n, padded in self._batches(rows):
            active = np.arange(len(padded)) < n  # rows that only fill the batch are not attacked
            bounds = self._call.bounds(eps, goal)
            results = attack.run(self._call, self._images.take(padded), active, bounds, capacity=self._batch_size)
            images[start : start + n], scores[start : start + n] = (result.numpy()[:n] for result in results)
        return images, scores

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """(start, number, rows) of batches of similar length, filled up where XLA would compile each length anew."""
        start = 0
        for batch in np.array_split(rows, max(1, -(-len(rows) // self._batch_size))) if len(rows) else ():
            full = np.resize(batch, self._batch_size) if compilation.use_xla() else batch
            yield start, len(batch), full
            start += len(batch)
