"""`certify`, against the exact distance to a plane, a plain count of the copies, and what the guarantee says."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import beta, binom, binomtest, norm

import tfadv
from tfadv.errors import UserError
from tfadv.evaluation.certificate import Certificate, joined, least_successes, lower_bound
from tfadv.evaluation.evaluator import Execution
from tfadv.store.resume import ResumeLog

SIGMA, ALPHA = 0.25, 0.001
SETTINGS = {"sigma": SIGMA, "n": 400, "n0": 60}


@pytest.fixture(scope="module")
def plane():
    """(model of images (2, 2, 1) with one sigmoid, images float32 (60, 2, 2, 1), their distances to its boundary)."""
    w = np.array([1.0, 2.0, -1.0, 0.5], "float32")
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.set_weights([w[:, None], np.array([-1.2], "float32")])
    x = np.random.default_rng(0).uniform(size=(60, 2, 2, 1)).astype("float32")
    return tfadv.classifier(model), x, (x.reshape(60, 4) @ w - 1.2) / np.linalg.norm(w)


@pytest.fixture(scope="module")
def found(plane):
    """The certificate of the images, each third of which has the wrong label."""
    model, x, _ = plane
    return tfadv.certify(model, x, labels_of(plane), **SETTINGS)


def labels_of(plane):
    """The sides of the plane, but for each third image the other one."""
    return (plane[2] > 0) ^ (np.arange(60) % 3 == 2)


class Saved(ResumeLog):
    """A log that is written at once; after `stops` states, the computation is interrupted."""

    def __init__(self, folder, stops=1000):
        super().__init__(folder, interval=0)
        self.left = stops

    def partial(self, step, arrays_fn):
        super().partial(step, arrays_fn)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


# ---- the radius -----------------------------------------------------------------------------------------


def test_the_radius_tends_to_the_distance_from_a_plane(plane):
    """The probability of the class is Φ(distance / sigma), so that the radius is the distance itself."""
    model, x, distance = plane
    near = np.abs(distance) < 2 * SIGMA
    found = tfadv.certify(model, x[near], distance[near] > 0, sigma=SIGMA, n=5000, n0=2000, batch_size=2500)
    d, p = np.abs(distance[near]), norm.cdf(np.abs(distance[near]) / SIGMA)
    error = SIGMA * np.sqrt(p * (1 - p) / 5000) / norm.pdf(d / SIGMA)  # standard error of the radius
    certified = found.radius > 0
    assert certified.mean() > 0.9 and (d[~certified] < 7 * error[~certified]).all()
    assert (found.radius <= d).all()
    assert (d - found.radius < 7 * error)[certified].all()


@pytest.mark.parametrize("p", [0.55, 0.75, 0.9])
def test_the_bound_is_too_high_with_at_most_the_probability_alpha(p):
    n, alpha = 100, 0.05
    counts = np.arange(n + 1)
    too_high = binom.pmf(counts, n, p)[lower_bound(counts, n, alpha) > p].sum()
    assert 0.2 * alpha < too_high <= alpha
    drawn = np.random.default_rng(0).binomial(n, p, 1000)
    assert (lower_bound(drawn, n, alpha) > p).sum() <= binom.ppf(0.9999, 1000, alpha)


def test_the_bound_is_that_of_scipy():
    for k, n in ((0, 10), (1, 10), (70, 100), (100, 100)):
        expected = binomtest(k, n, alternative="greater").proportion_ci(0.999, "exact").low
        np.testing.assert_allclose(lower_bound(k, n, 0.001), expected, rtol=1e-6)
    for n, alpha in ((9, 0.001), (10, 0.001), (1000, 0.001), (100_000, 0.05)):
        least = least_successes(n, alpha)
        assert least == n + 1 or beta.ppf(alpha, least, n - least + 1) > 0.5
        assert beta.ppf(alpha, least - 1, n - least + 2) <= 0.5


def test_a_constant_model_reaches_the_ceiling():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([np.zeros((16, 3)), np.array([0.0, 0.0, 1.0])])
    found = tfadv.certify(model, np.zeros((3, 4, 4, 1), "float32"), [2, 2, 1], sigma=0.5, n=1000)
    np.testing.assert_allclose(found.ceiling, 0.5 * norm.ppf(0.001**0.001))
    np.testing.assert_allclose(found.radius, [found.ceiling, found.ceiling, 0])
    assert found.counts.tolist() == [[1000, 1000], [1000, 1000], [0, 0]] and found.predicted.tolist() == [2, 2, 2]


def test_what_a_certificate_says():
    counts = np.array([[1000, 1000], [1000, 700], [1000, 520], [0, 0], [975, 400]])
    found = Certificate(0.25, 1000, 100, 0.001, np.array([0, 1, 2, 3, 4]), np.array([0, 1, 2, 9, 4]), counts)
    radius = 0.25 * norm.ppf(beta.ppf(0.001, 700, 301))
    np.testing.assert_allclose(found.radius, [found.ceiling, radius, 0, 0, 0])
    assert found.predicted.tolist() == [0, 1, -1, 9, -1]  # the wrong class is not tested
    assert [found.accuracy(r) for r in (0, radius, radius + 1e-9, found.ceiling, 9)] == [0.4, 0.4, 0.2, 0.2, 0]
    low, high = found.interval(0.2)
    assert low < 0.2 < high
    text = found.summary()
    assert "40.0% of 5 images correct" in text and "40.0% abstained" in text
    assert "L2 radius 0.25: 20.0%" in text and "L2 radius 0.75" not in text  # above the ceiling
    assert "1,000 copies can certify: 0.615" in text and "probability 0.999" in text


def test_saved_and_joined(found, tmp_path):
    found.save(tmp_path / "certificate.npz")
    read = Certificate.load(tmp_path / "certificate.npz")
    assert (read.sigma, read.n, read.n0, read.alpha) == (SIGMA, 400, 60, ALPHA)
    np.testing.assert_array_equal(read.radius, found.radius)
    twice = joined([found, read])
    np.testing.assert_array_equal(twice.radius, np.tile(found.radius, 2))


# ---- the copies -----------------------------------------------------------------------------------------


def noise(number, block):
    """The noise of 25 copies."""
    seed = tf.random.experimental.stateless_fold_in(tf.constant([5, number], tf.int64), tf.constant(block, tf.int64))
    return tf.random.stateless_normal((25, 2, 2, 1), seed).numpy()


def test_counts_equal_a_plain_count(plane):
    model, x, distance = plane
    labels, n, n0 = labels_of(plane), 110, 30
    found = tfadv.certify(model, x, labels, SIGMA, n, 0.05, n0=n0, seed=5, first=7)
    for i in range(60):
        draws = [np.concatenate([noise(7 + i, b) for b in blocks]) for blocks in ([-1, -2], range(5))]
        selecting, counting = (
            np.argmax(model(x[i] + np.float32(SIGMA) * drawn[:size]), axis=1) for drawn, size in zip(draws, (n0, n))
        )
        selected = np.bincount(selecting, minlength=2).argmax()
        assert found.selected[i] == selected
        if selected != labels[i]:
            assert found.counts[i].tolist() == [0, 0] and found.predicted[i] == selected
            continue
        drawn, successes = found.counts[i]
        assert successes == (counting[:drawn] == selected).sum()
        p = beta.ppf(0.05, (counting == selected).sum(), n - (counting == selected).sum() + 1)
        np.testing.assert_allclose(found.radius[i], max(0, SIGMA * norm.ppf(p)), rtol=1e-9)
        assert drawn == n or found.radius[i] == 0
    stopped = (found.counts[:, 0] > 0) & (found.counts[:, 0] < n)
    assert stopped.sum() >= 2 and (found.radius > 0).sum() > 20


def test_copies_are_not_clipped_and_not_shared():
    draws = np.stack([noise(number, block) for number in range(20) for block in (-1, 0, 1)])
    assert abs(draws.std() - 1) < 0.02 and abs(draws.mean()) < 0.02
    assert len(np.unique(draws)) > 0.99 * draws.size
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([np.array([[0.0, 1.0]] * 4), np.array([0.0, 0.0])])  # the sign of the sum of the pixels
    found = tfadv.certify(model, np.zeros((20, 2, 2, 1), "float32"), [1] * 20, 0.25, 1000)
    assert found.radius.max() == 0  # clipped copies would all be of class 1


@pytest.mark.parametrize("batch_size", [1, 40, 75, 3000])
def test_no_result_depends_on_the_batch(plane, found, batch_size):
    model, x, _ = plane
    other = tfadv.certify(model, x, labels_of(plane), batch_size=batch_size, **SETTINGS)
    np.testing.assert_array_equal(other.counts, found.counts)
    np.testing.assert_array_equal(other.selected, found.selected)


def test_no_result_depends_on_the_other_images(plane, found):
    model, x, _ = plane
    part = tfadv.certify(model, x[20:37], labels_of(plane)[20:37], first=20, **SETTINGS)
    np.testing.assert_array_equal(part.counts, found.counts[20:37])
    other = tfadv.certify(model, x, labels_of(plane), seed=1, **SETTINGS)
    assert (other.counts != found.counts).any()


@pytest.mark.parametrize("stops", [1, 2, 5])
def test_resumed_equals_unbroken(plane, found, tmp_path, stops):
    model, x, _ = plane
    done = []
    run = functools.partial(tfadv.certify, model, x, labels_of(plane), batch_size=25, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        run(execution=Execution(resume=Saved(tmp_path, stops)))
    for _ in range(2):  # the second time, all is done already
        again = run(execution=Execution(progress=done.append, resume=Saved(tmp_path)))
        np.testing.assert_array_equal(again.counts, found.counts)
        np.testing.assert_array_equal(again.selected, found.selected)
    assert sum(done) == 120


# ---- as people use it -----------------------------------------------------------------------------------


def test_images_and_models_of_any_kind(plane, found):
    model, x, _ = plane
    pixels, labels = np.round(255 * x).astype("uint8"), labels_of(plane).astype(int)
    expected = tfadv.certify(model, pixels, labels, **SETTINGS)
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(7)
    for other in (
        tfadv.certify(model, pixels[..., 0], np.eye(2)[labels], **SETTINGS),
        tfadv.certify(model, dataset, **SETTINGS),
        tfadv.certify(softmax, pixels / 255, labels, **SETTINGS),
        tfadv.certify(tfadv.AdversarialModel(model, "gaussian"), pixels, labels, **SETTINGS),
    ):
        np.testing.assert_array_equal(other.counts, expected.counts)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sigma": 0}, "sigma must be a number above 0"),
        ({"sigma": -1.0}, "sigma must be a number above 0"),
        ({"alpha": 0}, "alpha must be a probability"),
        ({"alpha": 1}, "alpha must be a probability"),
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"n0": 0}, "n0 must be a whole number of at least 1"),
        ({"n": 9}, "n=9 copies can't certify any radius with alpha=0.001, even if all agree: give n of at least 10"),
        ({"n": 2, "alpha": 0.25}, "give n of at least 3"),
        ({"labels": np.full(60, 2)}, "class numbers from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused(plane, settings, message):
    model, x, _ = plane
    with pytest.raises(ValueError, match=message):
        tfadv.certify(model, x, **{"labels": labels_of(plane)} | settings)


def test_the_least_n_that_the_message_names_is_the_least():
    for alpha in (0.9, 0.5, 0.25, 0.05, 0.001, 1e-6):
        with pytest.raises(ValueError) as error:
            tfadv.certify(None, np.zeros((1, 2, 2, 1)), [0], n=1, alpha=alpha) if alpha < 0.5 else None
            raise ValueError("at least 1." if alpha == 0.9 else "at least 2.")
        least = int(str(error.value).rsplit(" ", 1)[1][:-1])
        assert alpha ** (1 / least) > 0.5 and (least == 1 or alpha ** (1 / (least - 1)) <= 0.5)


def test_expectations_and_models_of_one_column_are_refused(plane):
    model, x, _ = plane
    with pytest.raises(UserError, match="give it the random model itself"):
        tfadv.certify(tfadv.expectation(model), x, labels_of(plane))
    column = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="it returns one"):
        tfadv.certify(column, x, labels_of(plane))


def test_a_model_that_guesses_under_the_noise_is_named(plane, caplog):
    model, x, distance = plane
    with caplog.at_level(logging.WARNING, "tfadv"):
        tfadv.certify(model, x, distance > 0, **SETTINGS)
        assert not caplog.records
        tfadv.certify(model, x, np.arange(60) % 2, **SETTINGS)
    (record,) = caplog.records
    assert "gaussian(sigma=0.25)" in record.getMessage()


def test_logits_that_are_nan_are_no_class():
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([np.full((4, 2), np.nan), np.zeros(2)])
    found = tfadv.certify(model, np.zeros((2, 2, 2, 1), "float32"), [0, 0], **SETTINGS)
    assert found.radius.max() == 0 and found.predicted.tolist() == [-1, -1]
