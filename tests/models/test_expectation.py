"""Random models: attacks follow their mean gradient, and new passes decide."""

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tfadv import evaluate
from tfadv.attacks import ATTACKS, FGSM, PGD, AutoAttack, Cost, parse
from tfadv.attacks.gradient import logits_and_gradient
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.models.compiled import compiled_logits
from tfadv.models.expectation import passes_of
from tfadv.models.logits import input_range_of, original

RAND = "autoattack(attacks=apgd-ce+apgd-dlr, steps=5)"


@keras.saving.register_keras_serializable("tests")
class Jitter(keras.layers.Layer):
    """Adds Gaussian noise at inference, too."""

    def __init__(self, sigma, **kwargs):
        super().__init__(**kwargs)
        self.sigma, self.seed = sigma, keras.random.SeedGenerator(0)

    def call(self, x):
        return x + self.sigma * keras.random.normal(keras.ops.shape(x), seed=self.seed)

    def get_config(self):
        return super().get_config() | {"sigma": self.sigma}


@pytest.fixture
def linear():
    """(regression of 2 classes under noise, the same without, images (60, 4, 4, 1), labels)."""
    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(2)
    image = keras.Input((4, 4, 1))
    noisy = keras.Model(image, dense(keras.layers.Flatten()(Jitter(0.1)(image))))
    plain = keras.Model(image, dense(keras.layers.Flatten()(image)))
    weights = rng.normal(size=(16, 2))
    plain.set_weights([weights, -0.5 * weights.sum(axis=0)])  # the boundary goes through a grey image
    x = rng.uniform(0.3, 0.7, (60, 4, 4, 1)).astype("float32")
    return noisy, plain, x, plain.predict(x, verbose=0).argmax(axis=1)


def test_the_mean_of_many_passes_is_the_model_without_noise(linear):
    noisy, plain, x, y = linear
    average = tfadv.expectation(noisy, samples=300)
    assert average.input_shape == (None, 4, 4, 1) and average.output_shape == (None, 2)
    expected = np.mean([tf.nn.softmax(noisy(x)) for _ in range(300)], axis=0)
    np.testing.assert_allclose(np.exp(compiled_logits(average, x)), expected, atol=0.1)
    # Noise is symmetric, so that the more likely class is that without noise.
    agreement = [np.mean(np.argmax(compiled_logits(model, x), axis=1) == y) for model in (average, noisy)]
    assert agreement[0] >= 0.95 > agreement[1]


def test_the_gradient_is_the_mean_of_those_of_the_passes(linear):
    noisy, _, x, y = linear
    images, labels = tf.constant(x[:5]), tf.constant(y[:5])
    passes = np.stack([logits_and_gradient(noisy, images, labels)[1] for _ in range(200)])
    logits, gradient = tf.function(lambda: logits_and_gradient(tfadv.expectation(noisy, 200), images, labels))()
    error = 5 * passes.std(axis=0) / np.sqrt(200) * np.sqrt(2)
    assert (np.abs(gradient - passes.mean(axis=0)) < error + 1e-6).all()
    assert (passes.std(axis=0) > 3 * error / 5).mean() > 0.9  # one pass says little
    np.testing.assert_allclose(tf.reduce_sum(tf.exp(logits), axis=1), 1, atol=1e-5)


def test_it_reaches_the_closed_form_of_the_noise_free_model(linear):
    noisy, plain, x, y = linear
    eps = 0.03
    weights = plain.get_weights()[0]
    difference = weights[:, 1] - weights[:, 0]
    beyond = np.abs((x.reshape(60, -1) - 0.5) @ difference) - eps * np.abs(difference).sum()
    clear = np.abs(beyond) > 4 * 0.1 * np.linalg.norm(difference) / np.sqrt(64)  # noise of the mean decides the others
    assert 10 < (clear & (beyond > 0)).sum() and 10 < (clear & (beyond < 0)).sum()
    result = evaluate(tfadv.expectation(noisy, samples=64), x, y, "pgd(steps=10)", eps)
    np.testing.assert_array_equal(result.robust[0][clear], (beyond > 0)[clear])
    assert (evaluate(noisy, x, y, "pgd(steps=10)", eps).robust[0] != (beyond > 0))[clear].any()


def test_each_answer_costs_all_its_passes(linear):
    noisy, _, x, y = linear
    one, several = Cost(), Cost()
    FGSM()(noisy, x, y, 0.1, cost=one)
    FGSM()(tfadv.expectation(noisy, 7), x, y, 0.1, cost=several)
    assert (several.gradients, several.forwards) == (7 * one.gradients, 7 * one.forwards)
    assert evaluate(tfadv.expectation(noisy, 7), x, y, "fgsm", 0.1).cost.gradients == 7 * 60


class Coin(keras.layers.Layer):
    """Class 0 or, once in so many passes, class 1, whatever the image is."""

    def __init__(self, share):
        super().__init__()
        self.share, self.seed = share, keras.random.SeedGenerator(1)

    def call(self, x):
        heads = keras.random.uniform((keras.ops.shape(x)[0], 1), seed=self.seed) < self.share
        return keras.ops.where(heads, [[0.0, 9.0]], [[9.0, 0.0]]) + 0 * keras.ops.mean(x, axis=(1, 2))


@pytest.mark.parametrize(
    "attack", [PGD(steps=10), pytest.param(AutoAttack(attacks=("apgd-ce",), steps=10), marks=pytest.mark.long)]
)
def test_an_image_that_one_pass_misclassifies_is_not_fooled(attack):
    """The search sees about one wrong answer in ten: with one pass for each, it would always succeed in ten steps."""
    image = keras.Input((4, 4, 1))
    model = tfadv.expectation(keras.Model(image, Coin(0.1)(image)), samples=1)
    x, y = np.full((200, 4, 4, 1), 0.5, "float32"), np.zeros(200, int)
    result = evaluate(model, x, y, attack, 0.1)
    assert 0.75 < result.clean_accuracy < 0.98 and result.robust_accuracy > 0.6  # 0.9 · 0.9 in the mean
    sure = tfadv.expectation(keras.Model(image, Coin(0.1)(image)), samples=25)
    assert evaluate(sure, x, y, attack, 0.1).robust_accuracy == 1.0


def test_a_model_without_randomness_is_attacked_as_before(linear):
    _, plain, x, y = linear
    expected = evaluate(plain, x, y, "pgd(steps=5)", [0.02, 0.05])
    found = evaluate(tfadv.expectation(plain, 3), x, y, "pgd(steps=5)", [0.02, 0.05])
    np.testing.assert_array_equal(found.robust, expected.robust)
    assert 0 < expected.robust.sum() < expected.robust.size


class Dropped(keras.layers.Layer):
    """Half of the values, at inference too."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(2)

    def call(self, x):
        return keras.random.dropout(x, 0.5, seed=self.seed)


@pytest.mark.long
def test_dropout_that_stays_on(digits):
    x, y = digits.images[:64, ::4, ::4].astype("float32") / 255, digits.labels[:64]
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(10)(Dropped()(hidden)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=40, verbose=0)
    assert (model.predict(x, verbose=0) != model.predict(x, verbose=0)).any()
    result = evaluate(tfadv.expectation(model, 10), x[:16], y[:16], RAND, 0.2)
    assert result.robust_accuracy + 0.2 < result.clean_accuracy


def test_it_is_saved_and_loaded(linear, tmp_path):
    average = tfadv.expectation(linear[1], 3)
    average.save(tmp_path / "average.keras")
    loaded = keras.models.load_model(tmp_path / "average.keras")
    assert loaded.samples == 3
    np.testing.assert_allclose(loaded(linear[2]), average(linear[2]), rtol=1e-5)


def test_samples_are_a_whole_number(linear):
    with pytest.raises(ValueError, match="samples"):
        tfadv.expectation(linear[0], 0)


def test_an_attack_on_a_certain_model_finds_what_it_finds_without(linear, long):
    """Or is refused, where it would not check what it finds with new passes."""
    _, plain, x, y = linear
    certain = tfadv.expectation(plain, 1)
    settings = {"square": "square(steps=100)", "fast": "fast(steps=5, queries=50)"}
    settings["autoattack"] = "autoattack(attacks=apgd-ce+square, steps=5, queries=50)"
    for name in (
        [name for name in ATTACKS if ATTACKS[name]().has_eps] if long else ("pgd", "square", "fab", "autoattack")
    ):
        attack = parse(settings.get(name, name))
        if not attack.takes_random:
            with pytest.raises(UserError, match="can't attack a random model"):
                attack(certain, x, y, 0.05)
            continue
        eps = 3 if name == "sparse-rs" else 0.05
        expected, found = (evaluate(model, x, y, attack, eps).robust for model in (plain, certain))
        # Without early stopping, other images are the last ones of a search.
        assert abs(int(expected.sum()) - int(found.sum())) <= 3 and 0 < expected.sum() < 60, name
    assert not parse("fab").takes_random and not parse("autoattack").takes_random


def test_as_the_model_of_a_run(tmp_path, monkeypatch):
    """A saved expectation of a model of grey levels that ends in a softmax; as a file, and from a function."""
    image = keras.Input((8, 8, 1))
    noisy = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(Jitter(100.0)(image)))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(noisy))
    average = tfadv.expectation(model, samples=7)
    average.save(tmp_path / "mean.keras")
    monkeypatch.setitem(sys.modules, "of_a_user", types.SimpleNamespace(mean=lambda: average))
    assert own.image_shape(str(tmp_path / "mean.keras")) == (8, 8, 1)
    x = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype("float32")
    for loaded in (own.load(str(tmp_path / "mean.keras")), own.load("of_a_user:mean")):
        converted = tfadv.classifier(loaded, (0, 255))
        assert passes_of(converted) == 7 and original(converted) is loaded and input_range_of(converted) == (0, 255)
        first, second = (compiled_logits(converted, x) for _ in range(2))
        assert not np.array_equal(first, second)
        # The mean of the probabilities, not of what a softmax makes of these.
        expected = np.mean([model(255 * x) for _ in range(200)], axis=0)
        found = np.mean([np.exp(compiled_logits(converted, x)) for _ in range(30)], axis=0)
        np.testing.assert_allclose(found, expected, atol=0.1)
