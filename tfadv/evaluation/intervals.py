"""95% intervals of differences between accuracies, most of them on the same images.

Two models are attacked on the same images, and many images are easy or hard for both. A paired interval uses this: it
is narrower than one that treats the two accuracies as if they came from different images. Intervals are about images:
they tell what other images would change, not what another seed of the training would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tfadv.evaluation.records import wilson_interval

RESAMPLES = 10_000
PSEUDO_IMAGES = 0.5  # see `mean_paired_difference`


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference between accuracies with its 95% interval, each in [-1, 1].

    Attributes:
      value: the first accuracy minus the second one.
      low: lower end of the interval.
      high: upper end of the interval.
      n: number of images that both accuracies are of; the smaller number where they are of different images.
      paired: whether the interval is that of the same images; otherwise it treats them as independent, see
        `difference_of_counts`.
    """

    value: float
    low: float
    high: float
    n: int
    paired: bool = True

    @property
    def tells(self) -> bool:
        """Whether the interval excludes 0, so that the images tell the two apart."""
        return self.low > 0 or self.high < 0

    @property
    def points(self) -> tuple[float, float, float]:
        """Value, lower and upper end in percentage points."""
        return 100 * self.value, 100 * self.low, 100 * self.high

    def __str__(self) -> str:
        """In percentage points, such as "+12.3 [+10.0, +15.0]"."""
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*self.points)


def mean_interval(correct: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95% interval (low, high) of the mean of R accuracies on the same N images.

    One accuracy gets Wilson's interval, several get a bootstrap: N images are drawn with replacement, and each brings
    along its outcomes in all R.  Half an image that is always right and half an image that is always wrong are added to
    those drawn from, so that the interval has a width where all images are alike.

    Args:
      correct: bool (R, N), images that are classified correctly; R and N are at least 1.
      seed: of the resampling; the same seed gives the same interval.
    """
    rows, n = correct.shape
    if rows == 1:
        return wilson_interval(int(correct.sum()), n)
    # An image counts by its sum over the rows: drawing images is drawing how many have each sum.
    images = np.bincount(correct.sum(axis=0, dtype=int), minlength=rows + 1).astype(float)
    images[[0, -1]] += PSEUDO_IMAGES
    drawn = np.random.default_rng(seed).multinomial(n, images / images.sum(), size=RESAMPLES)
    low, high = np.quantile(drawn @ np.arange(rows + 1) / (n * rows), [0.025, 0.975])
    value = float(correct.mean())
    return min(float(low), value), max(float(high), value)


def paired_difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """The accuracy of one model minus that of another on the same images.

    The interval is method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17:2635-2650: Wilson's intervals of the two accuracies,
    squared and added, less what their correlation explains. It stays within [-1, 1] and has a width where no image
    tells the models apart.

    Args:
      a: bool (N,), images that the first model classifies correctly; N is at least 1.
      b: bool (N,), those that the second one classifies correctly, in the same order.

    Raises:
      ValueError: the arrays are not bool (N,) with the same N of at least 1.
    """
    _check(a, b, ndim=1)
    n = len(a)
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    right_a, right_b = both + only_a, both + only_b
    product = right_a * (n - right_a) * right_b * (n - right_b)
    covariance = float(both * neither - only_a * only_b)
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)  # Newcombe's continuity correction
    correlation = covariance / math.sqrt(product) if product else 0.0
    return _square_and_add((right_a, n), (right_b, n), correlation, paired=True)


def difference_of_counts(a: int, b: int, n: int, n_b: int | None = None) -> Difference:
    """As `paired_difference`, where only the numbers of correctly classified images are known.

    The interval treats the images as independent (Newcombe 1998, "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17:873-890, method 10). It is at least as wide as the paired one
    where the models tend to err on the same images, as classifiers of the same data do.

    Args:
      a: number of images that the first model classifies correctly.
      b: number of images that the second model classifies correctly.
      n: number of images.
      n_b: number of images of the second model, where it is another one.
    """
    return _square_and_add((a, n), (b, n_b or n), correlation=0.0, paired=False)


def mean_paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Difference:
    """The mean over R pairs of accuracies of their differences, all on the same N images, such as over several eps.

    One pair gets the interval of `paired_difference`, several get a bootstrap: N images are drawn with replacement, and
    each brings along its outcomes in all pairs, which are far from independent. Where few images differ, a bootstrap is
    too narrow. So half an image that all models `a` have right and all `b` wrong, half an image with the opposite, and
    an image that makes no difference are added to those drawn from (as Agresti and Min 2005,
    https://doi.org/10.1002/sim.1781, do for one pair).

    Args:
      a: bool (R, N), images that are classified correctly, first of each pair.
      b: bool (R, N), second of each pair.
      seed: of the resampling; the same seed gives the same interval.

    Raises:
      ValueError: the arrays are not bool (R, N) with the same R and N of at least 1.
    """
    _check(a, b, ndim=2)
    if len(a) == 1:
        return paired_difference(a[0], b[0])
    pairs, n = a.shape
    # An image counts by its sum over the pairs, from -R to R: drawing images is drawing how many have each sum.
    sums = np.arange(-pairs, pairs + 1)
    images = np.bincount(a.sum(axis=0, dtype=int) - b.sum(axis=0, dtype=int) + pairs, minlength=len(sums)).astype(float)
    value = float(images @ sums) / (n * pairs)
    images[[0, -1]] += PSEUDO_IMAGES
    images[pairs] += 2 * PSEUDO_IMAGES
    drawn = np.random.default_rng(seed).multinomial(n, images / images.sum(), size=RESAMPLES)
    low, high = np.quantile(drawn @ sums / (n * pairs), [0.025, 0.975])
    return Difference(value, min(float(low), value), max(float(high), value), n)


def mean_difference_of_counts(counts: Sequence[tuple[int, int]], n: int) -> Difference:
    """As `mean_paired_difference`, where only the numbers of correctly classified images are known.

    How the pairs depend on each other is not known. The standard deviation of a mean is at most the mean of the
    standard deviations, so the means of the ends of `difference_of_counts` are those of an interval that is wide enough
    for any dependence. It is conservative, not the paired one.

    Args:
      counts: for each pair, the numbers of images that are classified correctly.
      n: number of images.
    """
    found = [difference_of_counts(a, b, n) for a, b in counts]
    value, low, high = np.mean([(each.value, each.low, each.high) for each in found], axis=0).tolist()
    return Difference(value, low, high, n, paired=False)


def _square_and_add(a: tuple[int, int], b: tuple[int, int], correlation: float, paired: bool) -> Difference:
    """Newcombe's interval from (number of correctly classified images, number of images) of both models."""
    (low_a, high_a), (low_b, high_b) = wilson_interval(*a), wilson_interval(*b)
    p_a, p_b = a[0] / a[1], b[0] / b[1]
    down = _hypotenuse(p_a - low_a, high_b - p_b, correlation)
    up = _hypotenuse(high_a - p_a, p_b - low_b, correlation)
    n = min(a[1], b[1])
    value = (a[0] - b[0]) / n if a[1] == b[1] else p_a - p_b
    return Difference(value, max(value - down, -1.0), min(value + up, 1.0), n, paired)


def _hypotenuse(x: float, y: float, correlation: float) -> float:
    return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))


def _check(a: np.ndarray, b: np.ndarray, ndim: int) -> None:
    if a.dtype != bool or b.dtype != bool or a.shape != b.shape or a.ndim != ndim or not a.size:
        shape = "(N,)" if ndim == 1 else "(R, N)"
        raise ValueError(
            f"needs two arrays bool {shape} of the same images, got {a.dtype} {a.shape} and {b.dtype} {b.shape}."
        )
