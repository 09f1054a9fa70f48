"""How many images are enough: an interval of an accuracy that holds whenever one stops.

Wilson's interval is for a number of images that was fixed beforehand.  Whoever looks at it after every few images, and
stops when it is narrow, chooses the moment, and misses the accuracy more often than in 5% of all cases.  The intervals
here are a confidence sequence: with a probability of 95%, all of them contain the accuracy.

If S of t images are classified correctly, the likelihood of an accuracy p is p^S (1 - p)^(t - S).  A weighted mean of
the likelihoods of all accuracies, divided by that of p, is a martingale of mean 1 where p is the accuracy.  It exceeds
20 at any time with a probability of at most 1 / 20 (Ville 1939).  The interval has those p for which it does not
(Robbins 1970, https://doi.org/10.1214/aoms/1177696786).  The weights are those of a beta distribution with the mean p
(Proposition 7 of Howard et al. 2021, https://doi.org/10.1214/20-AOS1991).  Like Wilson's, the interval is about other
images of the same kind.  In random order, the images are a random sample as long as all that were given are one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

BLOCK = 128  # images between two looks at the intervals
_ERROR = 0.05  # the probability that one of the intervals misses the accuracy
_WEIGHTS = 0.1  # how close to p the weights are; of those tried, it needs the fewest images for accuracies around 20%
_HALVINGS = 40  # of [0, 1]
_LEAST = 1e-15  # of an accuracy: the logarithm of 0 is infinite


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images that were drawn at random, until intervals were narrow enough.

    Attributes:
      images: int64 (N,), the numbers of the images in ascending order; 0 is the first that `evaluate` was given.
      of: the number of images that `evaluate` was given.
      precision: how far the ends of an interval may be from the accuracy.
    """

    images: np.ndarray
    of: int
    precision: float

    def summary(self, precise: bool) -> str:
        """A sentence; `precise`: whether the intervals are narrow enough."""
        n, points = len(self.images), f"±{100 * self.precision:g} points"
        if precise:
            return f"stopped after {n:,} of {self.of:,} images: the intervals are within {points}"
        return f"not stopped before the last of {n:,} images: the intervals are wider than {points}"


def log_ratio(p: Any, correct: Any, n: Any, precision: float) -> np.ndarray:
    """The logarithm of the martingale of an accuracy, see the text above.

    Args:
      p: the accuracy, above 0 and below 1.
      correct: number of images that are classified correctly.
      n: number of images.
      precision: as in `anytime_interval`.

    Returns:
      float64, in the shape to which the arguments broadcast; convex in p, and at most 0 at correct / n.
    """
    from scipy.special import gammaln  # flags and reports need not wait for it

    wrong, c = np.subtract(n, correct), _WEIGHTS / precision**2
    a, b = c * np.asarray(p), c * (1 - np.asarray(p))
    mean = gammaln(a + correct) - gammaln(a) + gammaln(b + wrong) - gammaln(b) + gammaln(c) - gammaln(c + n)
    return mean - correct * np.log(p) - wrong * np.log1p(-np.asarray(p))


def anytime_interval(correct: Any, n: int, precision: float, error: float = _ERROR) -> tuple[Any, Any]:
    """The interval of an accuracy, valid after any number of images; of 95%, unless `error` is given.

    Args:
      correct: number of images that are classified correctly, an int or an array of ints.
      n: number of images, at least 1, drawn at random.
      precision: half the width for which the interval is best, above 0 and below 1.  It is valid for any, which must
        not be chosen by the result.
      error: the probability that one of all intervals misses the accuracy.

    Returns:
      (lower ends, upper ends) in [0, 1], each in the shape of `correct`.
    """
    correct = np.asarray(correct, float)
    limit, value = -np.log(error), correct / n
    ends = []
    for bound in (np.zeros_like(value), np.ones_like(value)):
        inside, outside = value, bound
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            ratio = log_ratio(np.clip(middle, _LEAST, 1 - _LEAST), correct, n, precision)
            inside, outside = np.where(ratio < limit, middle, inside), np.where(ratio < limit, outside, middle)
        ends.append(outside[()])
    return ends[0], ends[1]


def precise(correct: Any, n: int, precision: float) -> bool:
    """Whether the intervals of accuracies, given as in `anytime_interval`, end within `precision` of these."""
    low, high = anytime_interval(correct, n, precision)
    value = np.asarray(correct) / n
    return bool((np.maximum(value - low, high - value) <= precision).all())
