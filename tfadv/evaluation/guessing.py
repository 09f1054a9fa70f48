"""Classifiers that have not learned: their accuracy under attack says nothing, as there is little to attack."""

from __future__ import annotations

from collections.abc import Sequence


def hardly_better_than_guessing(accuracy: float, largest_share: float) -> bool:
    """Whether a classifier is hardly better than one that always answers the largest class.

    With s = `largest_share`, the limit is min(2 s, s + 0.1 (1 - s)): 0.55 for two equal classes, 0.19 for ten, 0.02 for
    a hundred.

    Args:
      accuracy: on clean images, in [0, 1].
      largest_share: share of the largest class among these images, in [0, 1].
    """
    return accuracy < min(2 * largest_share, largest_share + 0.1 * (1 - largest_share))


def largest_share(counts: Sequence[int]) -> float:
    """Share of the largest class.

    Args:
      counts: number of images of each class, int (C,), not all zero.
    """
    return max(counts) / sum(counts)
