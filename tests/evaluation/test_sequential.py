"""Images in random order until intervals are narrow enough."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from tfadv.attacks import FGSM, PGD
from tfadv.attacks.randomness import ORDER, generators
from tfadv.evaluation.evaluator import FixedImages, evaluate
from tfadv.evaluation.result import concatenate, worst_case
from tfadv.evaluation.sequential import BLOCK, anytime_interval, log_ratio, precise

ACCURACIES = (0.02, 0.2, 0.5, 0.8, 0.99)
SIZES = (0.05, 0.2)


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_all_intervals_of_a_sequence_contain_the_accuracy(accuracy):
    """After each image, not only where one stops; Wilson's do not."""
    n = np.arange(1, 801)
    correct = np.cumsum(np.random.default_rng(0).random((1000, len(n))) < accuracy, axis=1)
    assert np.mean((log_ratio(accuracy, correct, n, 0.05) >= np.log(20)).any(axis=1)) <= 0.05
    outside_wilson = abs(correct / n - accuracy) > 1.96 * np.sqrt(accuracy * (1 - accuracy) / n)
    assert np.mean(outside_wilson[:, 99:].any(axis=1)) > 0.15


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_the_interval_where_one_stops_contains_the_accuracy(accuracy):
    sums = np.cumsum(np.random.default_rng(1).random((1000, 16 * BLOCK)) < accuracy, axis=1)[:, BLOCK - 1 :: BLOCK]
    left, missed = np.ones(1000, bool), 0
    for look, correct in enumerate(sums.T, 1):
        low, high = anytime_interval(correct, look * BLOCK, 0.05)
        value = correct / (look * BLOCK)
        stops = left & (np.maximum(value - low, high - value) <= 0.05)
        missed += (stops & ((low > accuracy) | (high < accuracy))).sum()
        left &= ~stops
    assert not left.any() and missed <= 50


@settings(max_examples=50)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from((0.02, 0.1)))
def test_the_ends_are_where_the_ratio_is_20(counts, precision):
    correct, n = counts
    low, high = anytime_interval(correct, n, precision)
    assert 0 <= low <= correct / n <= high <= 1 and low < high
    weights = 0.1 / precision**2
    for end in {low, high} - {0.0, 1.0}:
        likelihood = binom.logpmf(correct, n, end)
        expected = betabinom.logpmf(correct, n, weights * end, weights * (1 - end)) - likelihood
        assert expected == pytest.approx(np.log(20), abs=1e-4)
    inside = np.linspace(low, high, 9)[1:-1]
    outside = np.concatenate([np.linspace(0, low, 5)[1:-1], np.linspace(high, 1, 5)[1:-1]])
    outside = outside[(outside < low) | (outside > high)]
    assert (log_ratio(inside, correct, n, precision) < np.log(20)).all()
    assert (log_ratio(outside, correct, n, precision) > np.log(20)).all()


def test_intervals_of_several_accuracies_are_those_of_each():
    low, high = anytime_interval(np.array([0, 3, 100]), 100, 0.05)
    assert [anytime_interval(k, 100, 0.05) for k in (0, 3, 100)] == list(zip(low, high))
    assert low[0] == 0 < low[2] and high[0] < 1 == high[2]
    assert precise(np.array([500, 2]), 1000, 0.05) and not precise(np.array([500, 2]), 900, 0.05)


@pytest.fixture(scope="module")
def model():
    """A small network for two classes."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((2, 2, 1)), *layers])


@pytest.fixture(scope="module")
def labeled(model):
    """1,000 images, of which the first 900 are classified correctly, and the last 100 are not."""
    x = np.random.default_rng(0).random((1000, 2, 2, 1)).astype("float32")
    y = np.argmax(model.predict(x, verbose=0), axis=1)
    y[900:] = 1 - y[900:]
    return x, y


def same_rows(result, whole):
    """Whether a result is that of its images in the result of all images."""
    rows = result.sample.images
    assert (np.diff(rows) > 0).all() and result.sample.of == whole.n
    return all(
        np.array_equal(getattr(result, name), getattr(whole, name)[..., rows])
        for name in ("clean_correct", "adversarial_correct")
    )


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=2), None], ids=["fgsm", "pgd", "clean"])
def test_the_images_drawn_have_the_results_that_they_have_among_all(model, labeled, attack):
    eps = None if attack is None else SIZES
    whole = evaluate(model, *labeled, attack, eps)
    drawn = evaluate(model, *labeled, attack, eps, precision=0.08)
    assert 2 * BLOCK <= drawn.n < 800 and same_rows(drawn, whole)
    assert abs(drawn.clean_accuracy - whole.clean_accuracy) < 0.08  # the first 900 images are classified correctly
    order = generators(0, ORDER, np.zeros(1, int), np.zeros(1, int))[0].permutation(1000)
    for n in range(BLOCK, drawn.n + 1, BLOCK):
        counts = [rows[order[:n]].sum() for rows in (whole.clean_correct, *whole.robust)]
        assert precise(counts, n, 0.08) == (n == drawn.n)
    assert drawn.interval == tuple(anytime_interval(int(row.sum()), drawn.n, 0.08) for row in drawn.robust)


def test_all_images_drawn_are_the_result_without_precision(model, labeled):
    x, y = labeled[0][::4], labeled[1][::4]
    options = {"eps": SIZES, "keep_images": True}
    whole = evaluate(model, x, y, "pgd(steps=2)", **options)
    drawn = evaluate(model, x, y, "pgd(steps=2)", precision=0.01, **options)
    assert drawn.n == 250 and same_rows(drawn, whole) and drawn.cost.gradients == whole.cost.gradients
    np.testing.assert_array_equal(drawn.adversarial, whole.adversarial)
    assert "not stopped before the last of 250 images: the intervals are wider than ±1 points" in drawn.summary()
    low, high = zip(*drawn.interval)
    wilson_low, wilson_high = zip(*whole.interval)
    assert (np.array(low) < wilson_low).all() and (np.array(high) > wilson_high).all()


@pytest.mark.parametrize("options", [{"batch_size": 7}, {"batch_size": 400}, {"first": 5}, {"seed": -1}])
def test_which_images_are_drawn_depends_on_the_seed_alone(model, labeled, options):
    first = evaluate(model, *labeled, FGSM(), 0.1, precision=0.08)
    other = evaluate(model, *labeled, FGSM(), 0.1, precision=0.08, **options)
    assert np.array_equal(first.sample.images, other.sample.images) == ("seed" not in options)


def test_summary_says_where_it_stopped(model, labeled):
    result = evaluate(model, *labeled, FGSM(), 0.1, precision=0.08)
    low, high = result.interval
    lines = result.summary().splitlines()
    assert lines[1] == f"stopped after {result.n} of 1,000 images: the intervals are within ±8 points"
    assert lines[2].endswith(f"(95% interval {low:.1%} to {high:.1%})")
    assert result.robust_accuracy - 0.08 <= low < result.robust_accuracy < high <= result.robust_accuracy + 0.08


def test_uint8_images_and_tensors_are_drawn_as_they_are(model, labeled):
    x, y = (labeled[0] * 255).astype("uint8"), labeled[1]
    found = [
        evaluate(model, kind(x), y, FGSM(), 0.1, precision=0.08) for kind in (np.asarray, keras.ops.convert_to_tensor)
    ]
    np.testing.assert_array_equal(found[0].robust, found[1].robust)


def test_a_sample_is_not_joined_with_other_results(model, labeled):
    """Images of the same place in two samples differ."""
    result = evaluate(model, *labeled, FGSM(), 0.1, precision=0.08)
    for join in (worst_case, concatenate):
        with pytest.raises(ValueError, match="without precision"):
            join([result, dataclasses.replace(result, sample=None)])
    with pytest.raises(ValueError, match="without precision"):
        result.first(100)


@pytest.mark.parametrize(
    "attack, eps, options, message",
    [
        (FGSM(), 0.1, {"precision": 2}, "such as 0.02 for ±2 points"),
        (FGSM(), 0.1, {"precision": 0.0}, "such as 0.02 for ±2 points"),
        (FGSM(), 0.1, {"precision": "0.1"}, "such as 0.02 for ±2 points"),
        ("fmn", None, {}, "measured by distances"),
        ("corruptions", None, {}, "measured by sets of images"),
        (FixedImages(np.zeros((1, 8, 2, 2, 1), "float32")), 0.1, {}, "attacks that are run"),
    ],
)
def test_what_has_no_precision_is_refused(model, labeled, attack, eps, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, labeled[0][:8], labeled[1][:8], attack, eps, **{"precision": 0.1} | options)


def test_no_images(model):
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(model, np.zeros((0, 2, 2, 1), "float32"), np.zeros(0, int), "fgsm", 0.1, precision=0.1)


def test_a_data_set_has_its_own_order(model, labeled):
    with pytest.raises(ValueError, match="give arrays of images and labels"):
        evaluate(model, tf.data.Dataset.from_tensor_slices(labeled).batch(8), attack="fgsm", eps=0.1, precision=0.1)
