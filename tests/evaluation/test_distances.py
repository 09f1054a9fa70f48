"""Evaluations without a limit: the distance of each image to its nearest adversarial image."""

import dataclasses

import keras
import numpy as np
import pytest
from scipy.stats import binom

import tfadv
from tfadv.evaluation.records import median_interval
from tfadv.pipeline.results import content_hash, load_result, save_result

N, SIDE, CLASSES = 40, 4, 3


@pytest.fixture(scope="module")
def linear():
    """(model with linear logits, images, labels, exact distances in L-infinity; 0 where misclassified)."""
    rng = np.random.default_rng(1)
    model = keras.Sequential([keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    w, b = rng.normal(size=(SIDE**2, CLASSES)).astype("float32"), rng.normal(size=CLASSES).astype("float32") / 8
    model.layers[-1].set_weights([w, b])
    x = rng.uniform(0.45, 0.55, (N, SIDE, SIDE, 1)).astype("float32")  # no pixel reaches 0 or 1 on the way
    logits = x.reshape(N, -1) @ w + b
    y = np.where(rng.random(N) < 0.2, (logits.argmax(1) + 1) % CLASSES, logits.argmax(1))
    exact = [
        0 if row.argmax() != k else min((row[k] - row[j]) / abs(w[:, k] - w[:, j]).sum() for j in {0, 1, 2} - {k})
        for row, k in zip(logits, y, strict=True)
    ]
    return model, x, y, np.array(exact)


@pytest.fixture(scope="module")
def result(linear):
    return tfadv.evaluate(*linear[:3], "fab(steps=30)")


def test_distances_are_those_of_the_linear_model(linear, result):
    assert result.eps is None and result.n == N
    np.testing.assert_array_equal(result.distances == 0, linear[3] == 0)
    np.testing.assert_allclose(result.distances, linear[3], rtol=0.01)
    assert result.median_distance == np.sort(result.distances)[N // 2 - 1]
    assert f"median distance {result.median_distance:.4g}" in result.summary()


def test_accuracy_at_any_eps_is_that_of_an_evaluation_with_it(linear, result):
    sizes = (0.001, 0.003, 0.01)
    limited = tfadv.evaluate(*linear[:3], "fab(steps=30)", sizes)
    assert limited.robust_accuracy == tuple(result.accuracy_at(size) for size in sizes)
    assert result.accuracy_at(0) == result.clean_accuracy < 1
    with pytest.raises(ValueError, match="eps=None"):
        limited.accuracy_at(0.01)


def test_the_result_at_some_sizes_is_that_of_an_evaluation_with_them(linear, result):
    sizes = (0.0, 0.001, 0.003)
    at, limited = result.at(sizes), tfadv.evaluate(*linear[:3], "fab(steps=30)", sizes)
    assert at.eps == limited.eps == sizes and at.robust_accuracy == limited.robust_accuracy
    np.testing.assert_array_equal(at.robust, limited.robust)
    np.testing.assert_array_equal(at.distances, result.distances)
    assert "eps 0.003: " in at.summary() and "median distance" in at.summary()
    with pytest.raises(ValueError, match="eps=None"):
        limited.at(sizes)


def test_clean_images_need_no_sizes(linear, result):
    assert tfadv.evaluate(*linear[:3], None).clean_accuracy == result.clean_accuracy


def test_parts_of_the_images_have_the_same_distances(linear, result):
    model, x, y, _ = linear
    parts = [tfadv.evaluate(model, x[i : i + 10], y[i : i + 10], "fab(steps=30)", first=i) for i in range(0, N, 10)]
    np.testing.assert_array_equal(np.concatenate([part.distances for part in parts]), result.distances)


def test_kept_images_are_at_their_distances(linear):
    model, x, y, _ = linear
    result = tfadv.evaluate(model, x, y, "fab(norm=l2, steps=20)", keep_images=True)
    moved = np.sqrt(np.square(result.adversarial - x).sum((1, 2, 3)))
    assert result.adversarial.shape == x.shape
    np.testing.assert_allclose(moved, np.where(np.isinf(result.distances), 0, result.distances), rtol=1e-5)


def test_images_without_an_adversarial_image_are_infinitely_far(linear):
    """They have no gradient, either, and the summary says so."""
    _, x, y, _ = linear
    constant = keras.Sequential([keras.Input((SIDE, SIDE, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    constant.layers[-1].set_weights([np.zeros((SIDE**2, CLASSES)), np.array([1, 0, 0])])
    result = tfadv.evaluate(constant, x, y, "fab(steps=5)")
    np.testing.assert_array_equal(result.distances, np.where(y == 0, np.inf, 0))
    assert "have no gradient for fab to follow" in result.summary()


def test_the_distances_survive_the_disk(result, tmp_path):
    save_result(tmp_path, result)
    loaded = load_result(tmp_path)
    np.testing.assert_array_equal(loaded.distances, result.distances)
    assert loaded.eps is None and content_hash(loaded) == content_hash(result)
    assert content_hash(dataclasses.replace(result, distances=2 * result.distances)) != content_hash(result)
    np.testing.assert_array_equal(result.first(7).distances, result.distances[:7])


def test_attacks_that_eps_limits_take_8_of_255_levels(linear):
    assert tfadv.evaluate(*linear[:3], "fgsm").eps == 8 / 255
    with pytest.raises(ValueError, match="needs eps"):
        tfadv.attacks.PGD()(*linear[:3], None)


@pytest.mark.parametrize("n", [6, 10, 37, 1000])
def test_interval_of_the_median_covers_it_in_95_percent_of_samples(n):
    low, high = median_interval(np.arange(n, dtype=float))
    skipped = int(low)
    assert high == n - 1 - skipped
    assert 1 - 2 * binom.cdf(skipped, n, 0.5) >= 0.95 > 1 - 2 * binom.cdf(skipped + 1, n, 0.5)
