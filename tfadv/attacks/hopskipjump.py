"""HopSkipJump: an attack that sees only labels (Chen et al. 2019, https://arxiv.org/abs/1904.02144)."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Call
from tfadv.attacks.labels_only import Labels, LabelsOnlyAttack, Search
from tfadv.attacks.norms import NORMS, get_norm
from tfadv.attacks.randomness import QUERY, START, generators
from tfadv.specs import setting

STARTS = 50  # random images, among which one is to be adversarial
FIRST_QUERIES, MOST_QUERIES = 100, 10000  # for one estimate of a gradient: 100 · √t
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

    norm: str = setting("linf", choices=tuple(NORMS))
    queries: int = setting(25000, least=10)
    targeted: bool = False

    def begin(self, labels: Labels, search: Search, numbers: np.ndarray, seed: int, clip: tuple[float, float]) -> None:
        """Starts at the first of some images of noise that is adversarial, moved to the boundary."""
        (low, high), shape = clip, search.x.shape[1:]
        draws = generators(seed, START, numbers, np.zeros(len(numbers)))
        for _ in range(STARTS):
            rows = np.flatnonzero(np.isinf(search.distance) & (labels.left > 0))
            if not len(rows):
                break
            noise = np.stack([draws[row].uniform(low, high, shape) for row in rows]).astype(np.float32)
            found = labels.ask(noise, rows)
            rows, noise = rows[found], noise[found]
            self._to_boundary(labels, search, rows, noise)

    def _to_boundary(self, labels: Labels, search: Search, rows: np.ndarray, adversarial: np.ndarray) -> None:
        """Bisects between the images `rows` and adversarial ones (M, H, W, C), and keeps what is nearer than before."""
        if not len(rows):
            return
        x, theta = search.x[rows], self._theta(search)
        far, least = self._distance(adversarial, x), np.zeros(len(rows))
        limit = np.minimum(far * theta, theta) if self.norm == "linf" else np.full(len(rows), theta)
        most = far.copy() if self.norm == "linf" else np.ones(len(rows))
        best, done = adversarial.copy(), False
        while not done:
            active = np.flatnonzero((most - least > limit) & (labels.left[rows] > 0))
            middle = (least[active] + most[active]) / 2
            candidates = self._between(x[active], adversarial[active], middle)
            found = labels.ask(candidates, rows[active])
            best[active[found]], most[active[found]] = candidates[found], middle[found]
            least[active[~found]] = middle[~found]
            done = not len(active)
        distance = self._distance(best, x)
        nearer = distance < search.distance[rows]
        search.nearest[rows[nearer]], search.distance[rows[nearer]] = best[nearer], distance[nearer]

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

    def iterate(
        self, i: int, labels: Labels, search: Search, rows: np.ndarray, numbers: np.ndarray, call: Call
    ) -> np.ndarray:
        """Algorithm 2 of the paper, with t = i + 1; an image without queries for a whole iteration is done."""
        t, d, (low, high) = i + 1, search.x[0].size, call.clip
        enough = labels.left[rows] >= FIRST_QUERIES * np.sqrt(t) + 2 * MOST_HALVINGS  # with the step and the bisection
        rows = rows[enough]
        if not len(rows):
            return enough
        at, far = search.nearest[rows].copy(), search.distance[rows]
        scale = d * self._theta(search) if self.norm == "linf" else np.sqrt(d) * self._theta(search)
        delta = np.full(len(rows), FIRST_DELTA * (high - low)) if i == 0 else scale * far
        delta = np.maximum(delta, LEAST_CHANGE * np.sqrt(d) * (high - low))
        number = min(int(FIRST_QUERIES * np.sqrt(t)), MOST_QUERIES)
        draws = generators(call.seed, QUERY, numbers[rows], np.full(len(rows), t))
        direction = self._estimate(labels, rows, at, delta, number, draws, call.clip)
        step, moved, found = far / np.sqrt(t), at.copy(), np.zeros(len(rows), bool)
        for _ in range(MOST_HALVINGS):
            active = np.flatnonzero(~found & (labels.left[rows] > 0))
            if not len(active):
                break
            size = step[active].astype(np.float32)[:, None, None, None]
            candidates = np.clip(at[active] + size * direction[active], low, high)
            fools = labels.ask(candidates, rows[active])
            moved[active[fools]], found[active[fools]] = candidates[fools], True
            step[active] /= 2
        self._to_boundary(labels, search, rows[found], moved[found])
        return enough

    def _estimate(
        self,
        labels: Labels,
        rows: np.ndarray,
        at: np.ndarray,
        delta: np.ndarray,
        number: int,
        draws: list[np.random.Generator],
        clip: tuple[float, float],
    ) -> np.ndarray:
        """The direction of the gradient at images on the boundary, from `number` queries each (eq. 9 and 16)."""
        shape, n = at.shape[1:], len(rows)
        answers, sums, weighted = np.zeros(n), np.zeros(at.shape), np.zeros(at.shape)
        at_once = max(1, _AT_ONCE // (n * at[0].size))
        far = delta.astype(np.float32)[:, None, None, None, None]
        for start in range(0, number, at_once):
            count = min(at_once, number - start)
            if self.norm == "linf":
                u = np.stack([2 * g.random((count, *shape), np.float32) - 1 for g in draws])
            else:
                u = np.stack([g.standard_normal((count, *shape), np.float32) for g in draws])
            u /= np.sqrt(np.square(u).sum(axis=(2, 3, 4), keepdims=True))
            queries = np.clip(at[:, None] + far * u, *clip)
            u = (queries - at[:, None]) / far
            found = labels.ask(queries.reshape(-1, *shape), np.repeat(rows, count)).reshape(n, count)
            phi = np.where(found, 1.0, -1.0)
            answers += phi.sum(axis=1)
            sums += u.sum(axis=1, dtype=np.float64)
            weighted += (phi[..., None, None, None] * u).sum(axis=1)
        mean = (answers / number)[:, None, None, None]
        gradient = np.where(np.abs(mean) == 1, mean * sums, weighted - mean * sums)
        if self.norm == "linf":
            return np.sign(gradient).astype(np.float32)
        length = np.sqrt(np.square(gradient).sum(axis=(1, 2, 3), keepdims=True))
        return (gradient / np.maximum(length, np.finfo(float).tiny)).astype(np.float32)
