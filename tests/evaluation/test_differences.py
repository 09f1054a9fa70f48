"""Intervals of differences between accuracies: published examples, laws, a bootstrap, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfadv.evaluation.intervals import (
    difference_of_counts,
    mean_difference_of_counts,
    mean_paired_difference,
    paired_difference,
)

TABLES = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


def arrays(both, only_a, only_b, neither):
    """Two models' outcomes on images of which so many are right for both, for one of them, and for none."""
    a = np.repeat([True, True, False, False], (both, only_a, only_b, neither))
    return a, np.repeat([True, False, True, False], (both, only_a, only_b, neither))


def ends(found):
    return found.low, found.high


@pytest.mark.parametrize(
    "table, value, low, high",
    [
        # Altman et al. 2000, Statistics with Confidence, table 6.2, method 10 of Newcombe 1998 on paired data
        ((14, 5, 0, 22), 0.122, 0.011, 0.226),
        # Fagerland, Lydersen, Laake 2017, Statistical Analysis of Contingency Tables, chapter 8, "square-and-add"
        ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046),
        # Without correlation and with one margin 0, it is the unpaired interval: 0 of 10 against 0 of 10
        ((0, 0, 0, 10), 0.0, -0.2775, 0.2775),
    ],
)
def test_published_paired_intervals(table, value, low, high):
    found = paired_difference(*arrays(*table))
    digits = 0.0005 if abs(value) == 0.122 else 0.00005
    assert (found.value, *ends(found)) == pytest.approx((value, low, high), abs=digits)
    assert found.paired and found.n == sum(table)


@pytest.mark.parametrize("a, b, n, low, high", [(0, 0, 10, -0.2775, 0.2775), (10, 0, 10, 0.6075, 1.0)])
def test_published_intervals_of_independent_images(a, b, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10."""
    found = difference_of_counts(a, b, n)
    assert ends(found) == pytest.approx((low, high), abs=5e-5) and not found.paired


@given(TABLES)
def test_laws_of_the_paired_interval(table):
    a, b = arrays(*table)
    found, back, same = paired_difference(a, b), paired_difference(b, a), paired_difference(a, a)
    assert -1 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert ends(back) == pytest.approx((-found.high, -found.low)) and back.value == -found.value
    assert same.value == 0 and same.low < 0 < same.high and not same.tells
    order = np.random.default_rng(0).permutation(len(a))
    assert paired_difference(a[order], b[order]) == found
    wide = difference_of_counts(int(a.sum()), int(b.sum()), len(a))
    assert wide.value == found.value
    if table[0] * table[3] >= table[1] * table[2]:  # the models tend to err on the same images
        assert wide.low <= found.low + 1e-12 and found.high <= wide.high + 1e-12


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10**6))
def test_laws_of_the_mean(pairs, n, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((pairs, n)) < rng.random((pairs, 1)) for _ in range(2))
    found, same = mean_paired_difference(a, b), mean_paired_difference(a, a)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert mean_paired_difference(a, b) == found  # the seed is fixed
    assert same.value == 0 and same.low < 0 < same.high
    if pairs == 1:
        assert found == paired_difference(a[0], b[0])
    back = mean_paired_difference(b, a)
    assert ends(back) == pytest.approx((-found.high, -found.low), abs=3 / n)  # other draws


def outcomes(rng, n, pairs=3):
    """Two models on n images, each at several eps: an image is right where its difficulty is below a threshold."""
    difficulty = rng.normal(size=n)
    thresholds = np.linspace(0.3, -0.7, pairs)[:, None]
    a, b = (difficulty + rng.normal(scale=0.5, size=n) < thresholds + shift for shift in (0.15, 0.0))
    return a, b


def test_agrees_with_a_bootstrap_that_draws_images():
    a, b = outcomes(np.random.default_rng(1), 500)
    rows = np.random.default_rng(2).integers(500, size=(4000, 500))
    for found, pairs in ((paired_difference(a[0], b[0]), slice(0, 1)), (mean_paired_difference(a, b), slice(0, 3))):
        per_image = (a[pairs].astype(float) - b[pairs]).mean(axis=0)
        low, high = np.quantile(per_image[rows].mean(axis=1), [0.025, 0.975])
        assert ends(found) == pytest.approx((low, high), abs=0.005)
        assert high - low > 0.05


def test_the_intervals_contain_the_true_difference_in_95_of_100_samples():
    rng = np.random.default_rng(3)
    a, b = outcomes(rng, 400_000)
    truth = a.mean(axis=1) - b.mean(axis=1)
    samples = [rng.integers(400_000, size=200) for _ in range(1000)]
    singles = [paired_difference(a[0, rows], b[0, rows]) for rows in samples]
    means = [mean_paired_difference(a[:, rows], b[:, rows]) for rows in samples[:300]]
    for found, value in ((singles, truth[0]), (means, truth.mean())):
        assert 0.93 <= np.mean([each.low <= value <= each.high for each in found]) <= 0.98
    counts = [mean_difference_of_counts(list(zip(a[:, r].sum(1), b[:, r].sum(1))), 200) for r in samples[:100]]
    assert all(each.low <= truth.mean() <= each.high for each in counts)  # wide, as it says
    widths = [np.mean([each.high - each.low for each in found]) for found in (means, counts)]
    assert widths[0] < 0.75 * widths[1]


def test_a_bootstrap_of_few_differing_images_is_not_too_narrow():
    """An image in 300 differs: without the added images, most intervals were [0, 0]."""
    rng, covered = np.random.default_rng(4), []
    for _ in range(200):
        b = np.zeros((3, 100), bool)
        a = b | (rng.random(100) < 1 / 300)
        found = mean_paired_difference(a, b)
        covered.append(found.low <= 1 / 300 <= found.high)
    assert np.mean(covered) > 0.93


def test_the_mean_from_counts_is_the_mean_of_its_ends():
    parts = [difference_of_counts(80, 70, 100), difference_of_counts(30, 40, 100)]
    found = mean_difference_of_counts([(80, 70), (30, 40)], 100)
    assert found.value == 0 and ends(found) == pytest.approx(np.mean([ends(part) for part in parts], axis=0))
    assert str(difference_of_counts(80, 70, 100)) == "+10.0 [-2.0, +21.7]"


@pytest.mark.parametrize("a, b", [([], []), ([True], [True, False]), ([[True]], [[True]]), ([1, 0], [0, 1])], ids=str)
def test_other_arrays_are_refused(a, b):
    with pytest.raises(ValueError, match=r"two arrays bool \(N,\)"):
        paired_difference(np.array(a, dtype=None if a else bool), np.array(b, dtype=None if b else bool))
    if np.ndim(a) == 1:
        with pytest.raises(ValueError, match=r"two arrays bool \(R, N\)"):
            mean_paired_difference(np.array(a), np.array(b))
