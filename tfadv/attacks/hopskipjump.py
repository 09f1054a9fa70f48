"""HopSkipJump: an attack that sees only labels (Chen et al. 2019, https://arxiv.org/abs/1904.02144)."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Call
from tfadv.attacks.labels_only import LabelsOnlyAttack, Search
from tfadv.attacks.norms import DENSE, get_norm
from tfadv.attacks.randomness import QUERY, START, generators
from tfadv.specs import setting

STARTS = 50  # random images, among which one is to be adversarial
FIRST_QUERIES, MOST_QUERIES = 100, 10000  # for one estimate of a gradient: 100 · √t
LEAST_QUERIES = 20  # for the last estimate, which takes what is left
FIRST_DELTA = 0.1  # of the range of pixels: how far the first queries are from the image
MOST_HALVINGS = 25
LEAST_CHANGE = 1e-5  # of a pixel in a query, of the range of pixels: less would be lost in float32
_AT_ONCE = 2**22  # pixels of queries


@dataclasses.dataclass(frozen=True)
class HopSkipJump(LabelsOnlyAttack):
    """Walks along the decision boundary towards the image.

    Each iteration estimates the direction of the gradient from the labels of random images nearby, makes a step along
    it, and goes back to the boundary by bisection.

    Attributes:
      norm: "linf" or "l2".
      queries: the most predictions for each image.
      targeted: True moves the images to class y instead of away from it.
    """

    norm: str = setting("linf", choices=DENSE)
    queries: int = setting(25000, least=10)
    targeted: bool = False

    revision = 1  # version 0.3.0 left queries unused

    def begin(self, search: Search, call: Call) -> None:
        """Starts at the first of some images of noise that is adversarial, moved to the boundary."""
        (low, high), shape = call.clip, search.x.shape[1:]
        draws = generators(call.seed, START, search.numbers, np.zeros(len(search.numbers)))
        for _ in range(STARTS):
            rows = np.flatnonzero(np.isinf(search.distance) & (search.labels.left > 0))
            if not len(rows):
                break
            noise = np.stack([draws[row].uniform(low, high, shape) for row in rows]).astype(np.float32)
            found = search.labels.ask(noise, rows)
            self._to_boundary(search, rows[found], noise[found])

    def _to_boundary(self, search: Search, rows: np.ndarray, adversarial: np.ndarray) -> None:
        """Bisects between the images `rows` and adversarial ones (M, H, W, C), and keeps what is nearer than before."""
        if not len(rows):
            return
        x, theta, linf = search.x[rows], self._theta(search), self.norm == "linf"
        far = self._distance(adversarial, x)
        nearest, _ = search.bisect(
            *(rows, adversarial, far if linf else np.ones(len(rows)), np.minimum(far, 1) * theta if linf else theta),
            lambda which, middle: self._between(x[which], adversarial[which], middle),
        )
        distance = self._distance(nearest, x)
        nearer = distance < search.distance[rows]
        search.nearest[rows[nearer]], search.distance[rows[nearer]] = nearest[nearer], distance[nearer]

    def _between(self, x: np.ndarray, adversarial: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The point at this share of the way (L2), or the nearest one within this distance (L∞)."""
        share = share.astype(np.float32)[:, None, None, None]
        if self.norm == "linf":
            return np.clip(adversarial, x - share, x + share)
        return (1 - share) * x + share * adversarial

    def _theta(self, search: Search) -> float:
        """The tolerance of the bisection."""
        d = search.x[0].size
        return 1 / d**2 if self.norm == "linf" else 1 / (d * np.sqrt(d))

    def _distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return get_norm(self.norm).norm(tf.constant(a) - tf.constant(b)).numpy().reshape(-1).astype(np.float64)

    def iterate(self, i: int, search: Search, rows: np.ndarray, call: Call) -> np.ndarray:
        """Algorithm 2 of the paper, with t = i + 1; an image whose queries hardly allow another estimate is done."""
        t, (low, high), labels = i + 1, call.clip, search.labels
        left = labels.left[rows] - 2 * MOST_HALVINGS  # for the step and the bisection
        enough = left >= LEAST_QUERIES
        rows, numbers = rows[enough], np.minimum(left[enough], min(int(FIRST_QUERIES * np.sqrt(t)), MOST_QUERIES))
        if not len(rows):
            return enough
        direction = self._estimate(t, search, rows, numbers, call)
        at, step = search.nearest[rows], search.distance[rows] / np.sqrt(t)
        moved, found = at.copy(), np.zeros(len(rows), bool)
        for _ in range(MOST_HALVINGS):
            active = np.flatnonzero(~found & (labels.left[rows] > 0))
            if not len(active):
                break
            size = step[active].astype(np.float32)[:, None, None, None]
            candidates = np.clip(at[active] + size * direction[active], low, high)
            fools = labels.ask(candidates, rows[active])
            moved[active[fools]], found[active[fools]] = candidates[fools], True
            step[active] /= 2
        self._to_boundary(search, rows[found], moved[found])
        return enough

    def _estimate(self, t: int, search: Search, rows: np.ndarray, numbers: np.ndarray, call: Call) -> np.ndarray:
        """The direction of the gradient at images on the boundary (eq. 9 and 16); numbers: int (M,), of queries."""
        at, (low, high), n = search.nearest[rows], call.clip, len(rows)
        d, most = at[0].size, int(numbers.max())
        draws = generators(call.seed, QUERY, search.numbers[rows], np.full(n, t))
        scale = (d if self.norm == "linf" else np.sqrt(d)) * self._theta(search)
        delta = np.full(n, FIRST_DELTA * (high - low)) if t == 1 else scale * search.distance[rows]
        delta = np.maximum(delta, LEAST_CHANGE * np.sqrt(d) * (high - low))
        far = delta.astype(np.float32)[:, None, None, None, None]
        answers, sums, weighted = np.zeros(n), np.zeros(at.shape), np.zeros(at.shape)
        at_once = max(1, _AT_ONCE // at.size)
        for start in range(0, most, at_once):
            size = (min(at_once, most - start), *at.shape[1:])
            if self.norm == "linf":
                u = np.stack([2 * g.random(size, np.float32) - 1 for g in draws])
            else:
                u = np.stack([g.standard_normal(size, np.float32) for g in draws])
            u /= np.sqrt(np.square(u).sum(axis=(2, 3, 4), keepdims=True))
            queries = np.clip(at[:, None] + far * u, low, high)
            u = (queries - at[:, None]) / far
            asked = start + np.arange(size[0]) < numbers[:, None]
            phi = np.zeros(asked.shape)
            phi[asked] = np.where(search.labels.ask(queries[asked], rows[asked.nonzero()[0]]), 1.0, -1.0)
            answers += phi.sum(axis=1)
            sums += (asked[..., None, None, None] * u).sum(axis=1, dtype=np.float64)
            weighted += (phi[..., None, None, None] * u).sum(axis=1)
        mean = (answers / numbers)[:, None, None, None]
        gradient = np.where(np.abs(mean) == 1, mean * sums, weighted - mean * sums)
        if self.norm == "linf":
            return np.sign(gradient).astype(np.float32)
        length = np.sqrt(np.square(gradient).sum(axis=(1, 2, 3), keepdims=True))
        return (gradient / np.maximum(length, np.finfo(float).tiny)).astype(np.float32)
