"""RayS: an attack that sees only labels, without a gradient (Chen & Gu 2020, https://arxiv.org/abs/2006.12792)."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfadv.attacks.base import Call
from tfadv.attacks.labels_only import LabelsOnlyAttack, Search

TOLERANCE = 1e-4  # of the range of pixels, of the bisection


@dataclasses.dataclass(frozen=True)
class RayS(LabelsOnlyAttack):
    """Looks for the direction of signs in which the boundary is nearest, in L∞.

    It flips the signs of one block of pixels after the other: all pixels, halves, quarters, and so on.  A new direction
    that is not adversarial at the present distance costs one query; one that is also costs a bisection.

    Attributes:
      queries: the most predictions for each image.
      targeted: True moves the images to class y instead of away from it.
    """

    targeted: bool = False

    def begin(self, search: Search, call: Call) -> None:
        """Nothing is adversarial yet; all signs are +."""
        low, high = call.clip
        search.more = [np.ones((len(search.x), search.x[0].size), np.int8)]
        search.distance[np.isinf(search.distance)] = 2 * (high - low)  # beyond all images

    def iterate(self, i: int, search: Search, rows: np.ndarray, call: Call) -> np.ndarray:
        """The i-th direction: all pixels as they are, and then blocks with the other sign (Algorithm 3)."""
        (signs,), (low, high), shape = search.more, call.clip, search.x.shape[1:]
        tried = signs[rows].copy()
        tried[:, _block(i, tried.shape[1])] *= -1 if i else 1

        def at(which: np.ndarray, far: np.ndarray) -> np.ndarray:
            moved = far.astype(np.float32)[:, None] * tried[which]
            return np.clip(search.x[rows[which]] + moved.reshape(-1, *shape), low, high)

        far = np.minimum(search.distance[rows], high - low)
        candidates = at(np.arange(len(rows)), far)
        better = np.flatnonzero(search.labels.ask(candidates, rows))
        nearest, far = search.bisect(
            *(rows[better], candidates[better], far[better], TOLERANCE * (high - low)),
            lambda which, middle: at(better[which], middle),
        )
        search.nearest[rows[better]], search.distance[rows[better]] = nearest, far
        signs[rows[better]] = tried[better]
        return np.ones(len(rows), bool)


def _block(i: int, d: int) -> slice:
    """The pixels whose signs direction i ≥ 1 flips: the one block, then one of 2, of 4, …, and again from the start."""
    i = max(i - 1, 0)
    sizes = list(dict.fromkeys(-(-d // 2**level) for level in range(int(np.ceil(np.log2(d))) + 1)))
    i %= sum(-(-d // size) for size in sizes)
    for size in sizes:
        blocks = -(-d // size)
        if i < blocks:
            return slice(i * size, min((i + 1) * size, d))
        i -= blocks
    raise AssertionError
