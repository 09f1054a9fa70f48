"""What randomized smoothing guarantees for each image: `Certificate`."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfadv.evaluation.records import wilson_interval

ABSTAINS = -1  # in place of a class
_SHOWN = (1, 2, 3)  # radii of the summary, as multiples of sigma


def lower_bound(successes: np.ndarray | int, n: int, alpha: float) -> np.ndarray:
    """One-sided lower confidence bound of a proportion (Clopper and Pearson 1934, https://doi.org/10.2307/2331986).

    Args:
      successes: int (N,), of n trials.
      n: number of trials, at least 1.
      alpha: the bound is above the proportion with at most this probability.

    Returns:
      float64 (N,).
    """
    from scipy.stats import beta  # 0.6 s to import, which flags and reports need not wait for

    k = np.asarray(successes)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def least_successes(n: int, alpha: float) -> int:
    """The fewest successes of n trials whose `lower_bound` is above 1/2; n + 1 where even n are too few."""
    return bisect.bisect_left(range(n + 1), True, key=lambda k: bool(lower_bound(k, n, alpha) > 0.5))


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The L2 radius around each of N images within which the smoothed classifier does not change its prediction.

    The smoothed classifier predicts the class that the model gives to an image with Gaussian noise most often (Cohen et
    al. 2019, https://arxiv.org/abs/1902.02918).  The first n0 noisy copies of an image select a class, and n others
    bound its probability p from below, with confidence 1 - alpha.  The radius is sigma · Φ⁻¹(p).

    Attributes:
      sigma: standard deviation of the noise, for pixels in [0, 1].
      n: noisy copies of each image that bound the probability.
      n0: noisy copies that select the class.
      alpha: the probability, for each image, that the radius is too large.
      labels: int64 (N,), the true classes.
      selected: int64 (N,), the classes that were selected.
      counts: int64 (N, 2), how many of the n copies were classified, and how many of them as the selected class.
        (0, 0) where the selected class is wrong.  Fewer than n where the rest could not prevent an abstention.
    """

    sigma: float
    n: int
    n0: int
    alpha: float
    labels: np.ndarray
    selected: np.ndarray
    counts: np.ndarray

    @functools.cached_property
    def radius(self) -> np.ndarray:
        """float64 (N,), in L2 for pixels in [0, 1]; 0 where the class is wrong, and where it abstains."""
        from scipy.stats import norm

        drawn, successes = self.counts.T
        p = lower_bound(successes, self.n, self.alpha)
        certified = (self.selected == self.labels) & (drawn == self.n) & (p > 0.5)
        return self.sigma * norm.ppf(np.where(certified, p, 0.5))

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,), the classes; -1 where it abstains.  A wrong class is the selected one, which was not tested."""
        return np.where((self.selected == self.labels) & (self.radius == 0), ABSTAINS, self.selected)

    @property
    def ceiling(self) -> float:
        """The largest radius that n copies can certify."""
        from scipy.stats import norm

        return float(self.sigma * norm.ppf(self.alpha ** (1 / self.n)))

    def accuracy(self, radius: float = 0.0) -> float:
        """The certified accuracy: the share of images with the correct class and at least this radius, above 0."""
        return self._certified(radius) / len(self.labels)

    def interval(self, radius: float = 0.0) -> tuple[float, float]:
        """The 95% Wilson interval of `accuracy`."""
        return wilson_interval(self._certified(radius), len(self.labels))

    def _certified(self, radius: float) -> int:
        return int(((self.radius >= radius) & (self.radius > 0)).sum())

    def summary(self) -> str:
        """The accuracy and abstentions, certified accuracies, the ceiling, and what the guarantee is about."""
        low, high = self.interval()
        abstained = float((self.predicted == ABSTAINS).mean())
        lines = [
            f"smoothed with sigma {self.sigma:g}: {self.accuracy():.1%} of {len(self.labels)} images correct "
            f"(95% interval {low:.1%} to {high:.1%}), {abstained:.1%} abstained"
        ]
        for radius in (multiple * self.sigma for multiple in _SHOWN if multiple * self.sigma <= self.ceiling):
            low, high = self.interval(radius)
            lines.append(
                f"certified, L2 radius {radius:.4g}: {self.accuracy(radius):.1%} (95% interval {low:.1%} to {high:.1%})"
            )
        lines.append(f"largest radius that {self.n:,} copies can certify: {self.ceiling:.4g}")
        lines.append(
            f"Each radius holds with probability {1 - self.alpha:.4g}, for the smoothed classifier and not for the "
            "model itself."
        )
        return "\n".join(lines)

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed npz file."""
        with open(path, "wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def load(cls, path: pathlib.Path) -> Certificate:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{name: file[name] if file[name].ndim else file[name].item() for name in file.files})


def check_settings(sigma: float, n: int, alpha: float) -> None:
    """Raises ValueError where sigma or alpha is out of range, or n copies can certify no radius."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a number above 0, for pixels in [0, 1], got {sigma}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be a probability above 0 and below 1, got {alpha}.")
    if least_successes(n, alpha) > n:
        least = math.floor(-math.log2(alpha)) + 1
        raise ValueError(
            f"n={n} copies can't certify any radius with alpha={alpha:g}, even if all agree: give n of at least "
            f"{least}."
        )


def joined(certificates: Sequence[Certificate]) -> Certificate:
    """The certificate of all images from those of some of them, in order."""
    names = ("labels", "selected", "counts")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(each, name) for each in certificates]) for name in names}
    return dataclasses.replace(certificates[0], **arrays)
