import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tfadv.evaluation.intervals import wilson

COUNTS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCES = st.floats(0.01, 0.9999)


@pytest.mark.parametrize(
    "correct, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(correct, n, low, high):
    """Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I."""
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(COUNTS, CONFIDENCES)
def test_equals_scipys(counts, confidence):
    correct, n = counts
    theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
    assert wilson(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)


@given(COUNTS, CONFIDENCES)
@example((999_999, 10**6), 0.01)
def test_contains_the_proportion_and_stays_within_0_and_1(counts, confidence):
    correct, n = counts
    low, high = wilson(correct, n, confidence)
    assert 0 <= low <= correct / n <= high <= 1 and low < high
    assert (low == 0) == (correct == 0) and (high == 1) == (correct == n)


@given(COUNTS, CONFIDENCES)
def test_is_symmetric(counts, confidence):
    correct, n = counts
    low, high = wilson(correct, n, confidence)
    assert wilson(n - correct, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(COUNTS, st.integers(2, 100), CONFIDENCES)
def test_shrinks_with_n_and_grows_with_confidence(counts, times, confidence):
    correct, n = counts

    def width(*args):
        low, high = wilson(*args)
        return high - low

    assert width(times * correct, times * n, confidence) < width(correct, n, confidence)
    assert width(correct, n, confidence / 2) < width(correct, n, confidence)


@pytest.mark.parametrize(
    "args, named",
    [
        ((0, 0), "n must"),
        ((1, 2.5), "n must"),
        ((0, math.inf), "n must"),
        ((0, math.nan), "n must"),
        ((-1, 5), "correct"),
        ((6, 5), "correct"),
        ((0.5, 5), "correct"),
        ((math.nan, 5), "correct"),
        ((1, 5, 0), "confidence"),
        ((1, 5, 1), "confidence"),
        ((1, 5, 95), "confidence"),
    ],
)
def test_bad_arguments(args, named):
    with pytest.raises(ValueError, match=named):
        wilson(*args)
