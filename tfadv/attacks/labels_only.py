"""Attacks that see only the predicted class: the part that they share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Attack, Call
from tfadv.attacks.gradient import is_adversarial
from tfadv.attacks.norms import get_norm
from tfadv.models.compiled import compiled_logits
from tfadv.specs import setting

_AT_ONCE = 512  # queries
_SAVED = 8  # iterations between two states on the disk


class Labels:
    """Asks the model whether images are adversarial, and counts the queries of each image.

    Attributes:
      used: int64 (N,), queries so far.
    """

    def __init__(self, call: Call, y: np.ndarray, queries: int) -> None:
        """`y`: int64 (N,); `queries`: the most for each image."""
        self._call, self._y, self._queries = call, y, queries
        self.used = np.zeros(len(y), np.int64)

    @property
    def left(self) -> np.ndarray:
        """int64 (N,): queries that each image still has."""
        return self._queries - self.used

    def ask(self, candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """bool (M,): which candidates (M, H, W, C), of the images `rows`, int (M,), are adversarial."""
        found = [np.zeros(0, bool)]
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            logits = compiled_logits(self._call.model, candidates[part])
            labels = self._y[rows[part]]
            found.append(is_adversarial(logits, tf.constant(labels), self._call.targeted).numpy())
        np.add.at(self.used, rows, 1)
        self._call.cost.add(forwards=len(rows))
        return np.concatenate(found)


@dataclasses.dataclass
class Search:
    """The nearest adversarial images so far.

    Attributes:
      labels: what answers.
      x: float32 (N, H, W, C), the images.
      numbers: int64 (N,), their numbers.
      nearest: float32 (N, H, W, C); the image itself where none was found.
      distance: float64 (N,), their distances in the norm of the attack; inf where none was found.
      more: what else an attack keeps from one iteration to the next, one row per image.
    """

    labels: Labels
    x: np.ndarray
    numbers: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    more: list[np.ndarray] = dataclasses.field(default_factory=list)

    def bisect(
        self,
        rows: np.ndarray,
        adversarial: np.ndarray,
        most: np.ndarray,
        tolerance: np.ndarray | float,
        between: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Approaches the boundary between images and adversarial ones.

        Args:
          rows: int (M,), the images.
          adversarial: float32 (M, H, W, C).
          most: float (M,), where these are; the images are at 0.
          tolerance: float (M,) or one number.
          between: a function of (which of the M, int (L,), places, float (L,)) → images (L, H, W, C).

        Returns:
          (adversarial images within the tolerance of the boundary, as far as the queries reach, and where they are).
        """
        found, least, most = adversarial.copy(), np.zeros(len(rows)), most.copy()
        while len(active := np.flatnonzero((most - least > tolerance) & (self.labels.left[rows] > 0))):
            middle = (least[active] + most[active]) / 2
            candidates = between(active, middle)
            fools = self.labels.ask(candidates, rows[active])
            found[active[fools]], most[active[fools]] = candidates[fools], middle[fools]
            least[active[~fools]] = middle[~fools]
        return found, most

    def state(self, goes_on: np.ndarray) -> list[np.ndarray]:
        """The arrays from which a search continues."""
        return [self.nearest, self.distance, self.labels.used, goes_on, *self.more]


@dataclasses.dataclass(frozen=True)
class LabelsOnlyAttack(Attack):
    """Looks for the nearest adversarial image with a number of queries, and returns it where it is within eps.

    One run is enough for all eps.  An image is done when it is adversarial within the smallest eps.

    Attributes:
      queries: the most predictions for each image; an attack may stop a little earlier.
    """

    queries: int = setting(10000, least=10)

    uses_gradient = False
    limited = False

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`; what it finds is not checked with new passes."""
        return False

    def begin(self, search: Search, call: Call) -> None:
        """Finds the first adversarial images, in place."""
        raise NotImplementedError

    def iterate(self, i: int, search: Search, rows: np.ndarray, call: Call) -> np.ndarray:
        """Iteration i, from 0, of the images `rows`, int (M,), in place; returns bool (M,): which go on."""
        raise NotImplementedError

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`."""
        images = x.numpy()
        labels = Labels(call, y.numpy(), self.queries)
        search = Search(labels, images, call.numbers.numpy(), images.copy(), np.full(len(y), np.inf))
        saved = call.resume.load() if call.resume else None
        if saved:
            search.nearest, search.distance, labels.used, goes_on, *search.more = (np.array(a) for a in saved[-1])
            call.cost.add(forwards=int(labels.used.sum()))
        else:
            goes_on = ~labels.ask(images, np.arange(len(y)))
            search.distance[~goes_on] = 0.0
            self.begin(search, call)
            goes_on &= np.isfinite(search.distance)
        if not saved or saved[0] != "done":
            self._search(call, search, goes_on, float(np.min(sizes)), first=int(saved[1]) + 1 if saved else 0)
        norm = get_norm(getattr(self, "norm", "linf"))
        measured = norm.norm(tf.constant(search.nearest) - x).numpy().reshape(-1)
        within = np.isfinite(search.distance)[None] & (measured[None] <= sizes.numpy()[:, None])
        return tf.where(within[..., None, None, None], search.nearest[None], images[None])

    def _search(self, call: Call, search: Search, goes_on: np.ndarray, enough: float, first: int) -> None:
        """All iterations from the `first` on; an image is done where its distance is `enough`."""
        i = first
        while len(rows := np.flatnonzero(goes_on & (search.distance > enough) & (search.labels.left > 0))):
            goes_on[rows] = self.iterate(i, search, rows, call)
            if call.resume and i % _SAVED == _SAVED - 1:
                call.resume.partial(i, functools.partial(search.state, goes_on))
            i += 1
        if call.resume:
            call.resume.done(search.state(goes_on))
