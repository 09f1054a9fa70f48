"""The rules on an honest model, and on models that mask their gradients on purpose."""

import json

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from tfadv.attacks import fgsm, pgd
from tfadv.datasets import sources
from tfadv.evaluation.masking import measure
from tfadv.evaluation.checks import judge

N, EPS = 128, 0.1
FEW = {"steps": 10, "more": 4, "targets": 2, "queries": 200}
BARELY = {"steps": 1, "more": 2, "targets": 1, "queries": 1}


def suspicious(checks):
    return {check.name for check in checks if check.passed is False}


@pytest.fixture(scope="module")
def images():
    digits = sklearn.datasets.load_digits()
    return (digits.images / 16).astype("float32")[..., None], digits.target


@pytest.fixture(scope="module")
def honest(images):
    """A small convolutional network, trained on all digits but the first 256."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images[0][256:], images[1][256:], batch_size=64, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def some(images):
    return images[0][:N], images[1][:N]


@pytest.fixture(scope="module")
def measured(honest, some):
    return measure(honest, *some, EPS, surrogate=honest, **FEW)


class Round(keras.layers.Layer):
    """Nine grey levels; the gradient of rounding is zero."""

    def call(self, x):
        return tf.round(8 * x) / 8


class Noise(keras.layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x), stddev=0.3)


class Wave(keras.layers.Layer):
    """A ripple too small to see, whose slope is twenty times that of the image."""

    def call(self, x):
        return x + 0.1 * tf.sin(200 * x)


class Probabilities(keras.Model):
    """A softmax that attacks do not recognise."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def call(self, x, training=None):
        return tf.nn.softmax(self.logits(x, training=training))


def chain(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def test_an_honest_model_passes_every_check(measured):
    checks = judge(measured)
    assert all(check.passed is True for check in checks), suspicious(checks)
    accuracies = {name: attack["accuracy"] for name, attack in measured["attacks"].items()}
    assert accuracies["apgd-t"] < 0.6 < 0.85 < measured["clean"]["accuracy"]  # there was something to attack


def test_facts_are_what_the_attacks_leave(measured, honest, some):
    x, y = some

    def right(z):
        return np.argmax(honest(z), axis=1) == y

    def string(flags):
        return "".join(map(str, flags.astype(int)))

    found = measured["attacks"]
    assert measured["clean"] == {"right": string(right(x)), "accuracy": right(x).mean()}
    raw = right(fgsm(honest, x, y, EPS))
    assert found["fgsm"]["right"] == string(raw) and found["fgsm"]["accuracy"] == (raw & right(x)).mean()
    options = dict(step_size=2.5 * EPS / 10, steps=10, until_broken=True)
    assert found["pgd"]["accuracy"] == right(pgd(honest, x, y, EPS, **options)).mean()
    assert found["grey"]["right"] == string(right(np.full_like(x, 0.5))) and found["pgd-large"]["eps"] == 0.5
    assert found["transfer"]["accuracy"] <= found["fgsm"]["accuracy"]  # the surrogate is the model itself
    assert set(measured["zero_gradient"]) == {"0"} and len(measured["zero_gradient"]) == N


def test_wrong_already_is_not_robust_but_seen(honest, some):
    """Half of the labels are what the model says of grey: wrong on most of those images, right on grey."""
    x, y = some[0][:20], some[1][:20].copy()
    y[:10] = np.argmax(honest(np.full((1, 8, 8, 1), 0.5, "float32")))
    found = measure(honest, x, y, EPS, **BARELY)
    clean, grey = found["clean"]["right"], found["attacks"]["grey"]
    both = sum(a == b == "1" for a, b in zip(clean, grey["right"], strict=True))
    assert grey["right"][:10] == "1" * 10 and "0" in clean[:10] and grey["accuracy"] == both / 20


def test_a_gradient_that_is_zero_in_some_pixels_is_a_gradient(honest, some):
    frame = keras.layers.ZeroPadding2D(1)
    found = measure(chain(keras.layers.Cropping2D(1), frame, honest), *some, EPS, **BARELY)
    assert set(found["zero_gradient"]) == {"0"}


def test_facts_survive_json_and_count_their_cost(measured):
    assert judge(json.loads(json.dumps(measured, allow_nan=False))) == judge(measured)
    attacks = measured["attacks"]
    assert attacks["fgsm"]["gradients"] == N and attacks["grey"]["gradients"] == attacks["square"]["gradients"] == 0
    own = sum(attack["gradients"] for name, attack in attacks.items() if name != "transfer")
    assert N < own <= N * (10 * (4 * (2 + 4) + 1) + 1)
    assert all(attack["seconds"] > 0 for attack in attacks.values())


def test_batch_size_changes_nothing_but_the_cost(measured, honest, some):
    again = measure(honest, *some, np.float32(EPS), surrogate=honest, batch_size=np.int64(50), **FEW)
    json.dumps(again)  # numbers of numpy would not
    left = [{k: v["right"] for k, v in found["attacks"].items()} for found in (again, measured)]
    assert left[0] == left[1] and len(left[0]) == 10
    assert again["clean"] == measured["clean"] and again["zero_gradient"] == measured["zero_gradient"]


def test_huge_logits(honest, some):
    found = measure(chain(honest, keras.layers.Rescaling(1e4)), *some, EPS, **FEW)
    assert suspicious(judge(found)) == {"zero gradients", "cross-entropy", "large eps"}


def test_a_layer_without_gradient(honest, some):
    found = measure(chain(Round(), honest), *some, EPS, **FEW)
    assert suspicious(judge(found)) == {"zero gradients", "black box", "large eps"}


def test_a_rugged_loss(honest, some):
    found = measure(chain(Wave(), honest), *some, EPS, **FEW)
    assert {"iterations", "steps"} <= suspicious(judge(found))


def test_noise(honest, some):
    found = measure(chain(Noise(), honest), *some, EPS, **FEW)
    assert "randomness" in suspicious(judge(found))
    assert {c.name: c for c in judge(found)}["probabilities"].passed and found["change"] > 0.1


def test_probabilities_that_attacks_refuse(honest, some):
    found = measure(chain(honest, keras.layers.Softmax()), *some, EPS, **FEW)
    assert "softmax" in found["refused"] and found["attacks"] == {} and found["clean"]["accuracy"] > 0.85
    checks = judge(json.loads(json.dumps(found)))
    assert suspicious(checks) == {"probabilities"}
    assert {check.name for check in checks if check.passed} == {"randomness"}


def test_probabilities_that_attacks_do_not_recognise(honest, some):
    found = measure(Probabilities(honest), *some, EPS, **BARELY)
    assert found["refused"] is None and "probabilities" in suspicious(judge(found))


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(eps=0.0), "eps"),
        (dict(eps=[0.1, 0.2]), "eps"),
        (dict(more=1), "more"),
        (dict(steps=0), "steps"),
        (dict(batch_size=0), "batch_size"),
        (dict(x=np.zeros((4, 8, 8, 1), "uint8")), "float32"),
        (dict(x=np.zeros((0, 8, 8, 1), "float32"), y=np.zeros(0, int)), "image"),
        (dict(y=np.full(4, 10)), "y must"),
    ],
)
def test_bad_arguments(honest, wrong, named):
    arguments = dict(x=np.zeros((4, 8, 8, 1), "float32"), y=np.zeros(4, int), eps=EPS) | wrong
    with pytest.raises(ValueError, match=named):
        measure(honest, **arguments)


def test_outputs_that_are_no_numbers(honest, some):
    with pytest.raises(ValueError, match="finite"):
        measure(chain(honest, keras.layers.Rescaling(np.inf)), *some, EPS)


@pytest.mark.long
def test_a_network_trained_on_fgsm_alone_overfits_to_it(real_data):
    """MNIST at eps 0.3: in the end FGSM leaves nearly all images right, and PGD none."""
    pool, eps = sources.load("mnist", real_data, 28), 0.3
    images, labels = pool.images[:5200] / np.float32(255), pool.labels[:5200].astype("int64")
    some = images[5000:][:N], labels[5000:][:N]
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input(images.shape[1:]),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(40):
        for part in np.random.permutation(5000)[:4992].reshape(-1, 64):
            model.train_on_batch(fgsm(model, images[part], labels[part], eps), labels[part])
        left = np.mean(np.argmax(model(fgsm(model, *some, eps)), axis=1) == some[1])
        if left > 0.9:
            break
    found = judge(measure(model, *some, eps, **FEW))
    assert "catastrophic overfitting" in suspicious(found), left
    assert not suspicious(found) - {"catastrophic overfitting", "label leaking", "iterations"}
