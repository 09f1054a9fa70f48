"""RayS: an attack that sees only labels, without a gradient (Chen & Gu 2020, https://arxiv.org/abs/2006.12792)."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfadv.attacks.base import Call
from tfadv.attacks.labels_only import Labels, LabelsOnlyAttack, Search

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

    def begin(self, labels: Labels, search: Search, numbers: np.ndarray, seed: int, clip: tuple[float, float]) -> None:
        """Nothing is adversarial yet; all signs are +."""
        search.more = [np.ones((len(numbers), search.x[0].size), np.int8)]
        search.distance[np.isinf(search.distance)] = 2 * (clip[1] - clip[0])  # beyond all images

    def iterate(
        self, i: int, labels: Labels, search: Search, rows: np.ndarray, numbers: np.ndarray, call: Call
    ) -> np.ndarray:
        """The i-th direction: all pixels as they are, and then blocks with the other sign (Algorithm 3)."""
        (signs,), (low, high), shape = search.more, call.clip, search.x.shape[1:]
        tried = signs[rows].copy()
        tried[:, _block(i, tried.shape[1])] *= -1 if i else 1

        def at(which: np.ndarray, far: np.ndarray) -> np.ndarray:
            moved = far.astype(np.float32)[:, None] * tried[which]
            return np.clip(search.x[rows[which]] + moved.reshape(-1, *shape), low, high)

        every = np.arange(len(rows))
        better = every[labels.ask(at(every, search.distance[rows]), rows)]
        least, most = np.zeros(len(better)), search.distance[rows[better]].copy()
        most = np.minimum(most, high - low)
        while True:
            active = np.flatnonzero((most - least > TOLERANCE * (high - low)) & (labels.left[rows[better]] > 0))
            if not len(active):
                break
            middle = (least[active] + most[active]) / 2
            found = labels.ask(at(better[active], middle), rows[better[active]])
            most[active[found]], least[active[~found]] = middle[found], middle[~found]
        search.nearest[rows[better]], search.distance[rows[better]] = at(better, most), most
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
