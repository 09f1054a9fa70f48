"""How far an accuracy of few images may be from that of many: `wilson`."""

import math
from statistics import NormalDist


def wilson(correct, n, confidence=0.95):
    """The score interval of a proportion (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    All proportions p that `correct` of n does not contradict: |correct / n - p| is at most z standard errors
    sqrt(p (1 - p) / n), z from the normal distribution. It stays within [0, 1] and has a width at 0 and n as well,
    where ± z sqrt(p̂ (1 - p̂) / n) has none.

    Args:
      correct: int, 0 to n.
      n: int >= 1, how many images (or whatever is counted).
      confidence: float above 0 and below 1: how often such an interval is to contain the true proportion.

    Returns:
      (low, high), floats in [0, 1]; low is exactly 0 where `correct` is 0, and high exactly 1 where it is n.

    Raises:
      ValueError: an argument that is out of its range or no whole number.
    """
    if not 1 <= n < math.inf or n != int(n):
        raise ValueError(f"n must be a whole number of at least 1, got {n}.")
    if not 0 <= correct <= n or correct != int(correct):
        raise ValueError(f"correct must be a whole number from 0 to {n}, got {correct}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence}.")
    z = -NormalDist().inv_cdf((1 - confidence) / 2)
    p, square = correct / n, z * z / n
    middle = (p + square / 2) / (1 + square)
    half = math.sqrt(square * (p * (1 - p) + square / 4)) / (1 + square)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    return low, high
