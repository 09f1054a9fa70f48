"""Wilson's interval: scipy's, with tfadv's checks of the arguments."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfadv.evaluation.records import wilson_interval

COUNTS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    "correct, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(correct, n, low, high):
    """Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I."""
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(COUNTS)
@example((0, 1))
@example((10**6, 10**6))
def test_closed_form_of_0_1(counts):
    """results.json holds 6 digits; they are the ones of tfadv 0.1, which computed the interval itself."""
    correct, n = counts
    z = 1.959963984540054
    p, square = correct / n, z * z / n
    middle = (p + square / 2) / (1 + square)
    half = math.sqrt(square * (p * (1 - p) + square / 4)) / (1 + square)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    assert [round(end, 6) for end in wilson_interval(correct, n)] == [round(low, 6), round(high, 6)]


@given(COUNTS)
def test_contains_the_proportion_and_stays_within_0_and_1(counts):
    correct, n = counts
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1 and low < high
    assert (low == 0) == (correct == 0) and (high == 1) == (correct == n)
    assert type(low) is type(high) is float  # as JSON needs


@pytest.mark.parametrize("correct, n", [(0, 0), (1, 2.5), (0, math.nan), (-1, 5), (6, 5), (0.5, 5), (math.nan, 5)])
def test_invalid_arguments(correct, n):
    with pytest.raises(ValueError, match="whole numbers"):
        wilson_interval(correct, n)
