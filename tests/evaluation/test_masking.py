"""The checks on a standard model, and on models that mask their gradients."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

import tfadv
from tests.checks import fgsm_only
from tfadv.attacks import FGSM, PGD
from tfadv.datasets import sources
from tfadv.evaluation import masking
from tfadv.evaluation.checks import WHITE_BOX, run_checks
from tfadv.evaluation.evaluator import Execution
from tfadv.evaluation.masking import DiagnosticSettings, check_gradient_masking, collect_diagnostics
from tfadv.models.random_layers import random_layers
from tfadv.store.resume import ResumeLog

N, EPS = 128, 0.1
SHORT = DiagnosticSettings(steps=10, factor=4, targets=2, queries=200)
SHORTEST = DiagnosticSettings(steps=1, factor=2, targets=1, queries=1)


def suspicious(checks):
    return {check.name for check in checks if check.passed is False}


@pytest.fixture(scope="module")
def images():
    digits = sklearn.datasets.load_digits()
    return (digits.images / 16).astype("float32")[..., None], digits.target


@pytest.fixture(scope="module")
def standard(images):
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
def few(images):
    return images[0][:N], images[1][:N]


@pytest.fixture(scope="module")
def diagnostics(standard, few):
    return collect_diagnostics(standard, *few, EPS, surrogate=standard, settings=SHORT)


@pytest.fixture
def one_step(monkeypatch):
    """FGSM in place of each attack, where these do not decide."""
    monkeypatch.setattr(masking, "_diagnostic_attacks", fgsm_only)


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
    """A softmax that attacks do not recognize."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def call(self, x, training=None):
        return tf.nn.softmax(self.logits(x, training=training))


def test_layers_that_are_random_at_inference_are_found_inside_models_as_well(standard):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.GaussianNoise(1.0), Noise(name="inside")])
    images = keras.Input((32, 32, 1))
    x = keras.layers.Concatenate()([inner(images), keras.layers.Dropout(0.5)(images)])
    x = keras.layers.Dense(3)(keras.layers.Flatten()(Noise(name="outside")(x)))
    assert sorted(random_layers(keras.Model(images, x))) == ["inside", "outside"]
    assert random_layers(standard) == []


def chain(*layers):
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def test_a_standard_model_passes_every_check(diagnostics):
    checks = run_checks(diagnostics)
    assert all(check.passed is True for check in checks), suspicious(checks)
    accuracies = {name: attack["accuracy"] for name, attack in diagnostics["attacks"].items()}
    assert (
        accuracies["apgd-t"] < 0.6 < 0.85 < diagnostics["clean"]["accuracy"]
    )  # the attacks succeed, or the checks compare nothing


def test_diagnostics_equal_an_independent_count(diagnostics, standard, few):
    x, y = few

    def right(z):
        return np.argmax(standard(z), axis=1) == y

    def string(flags):
        return "".join(map(str, flags.astype(int)))

    found = diagnostics["attacks"]
    assert diagnostics["clean"] == {"right": string(right(x)), "accuracy": right(x).mean()}
    raw = right(FGSM()(standard, x, y, EPS))
    assert found["fgsm"]["right"] == string(raw) and found["fgsm"]["accuracy"] == (raw & right(x)).mean()
    pgd = PGD(step_size=2.5 * EPS / 10, steps=10)
    assert found["pgd"]["accuracy"] == right(pgd(standard, x, y, EPS)).mean()
    assert found["grey"]["right"] == string(right(np.full_like(x, 0.5))) and found["pgd-large"]["eps"] == 0.5
    assert found["transfer"]["accuracy"] <= found["fgsm"]["accuracy"]  # the surrogate is the model itself
    assert set(diagnostics["zero_gradient"]) == {"0"} and len(diagnostics["zero_gradient"]) == N


def test_an_image_that_is_misclassified_without_an_attack(standard, few, one_step):
    """Half of the labels are the class of the gray image: wrong for most of these images, right for gray."""
    x, y = few[0][:20], few[1][:20].copy()
    y[:10] = np.argmax(standard(np.full((1, 8, 8, 1), 0.5, "float32")))
    found = collect_diagnostics(standard, x, y, EPS, settings=SHORTEST)
    clean, grey = found["clean"]["right"], found["attacks"]["grey"]
    both = sum(a == b == "1" for a, b in zip(clean, grey["right"], strict=True))
    assert grey["right"][:10] == "1" * 10 and "0" in clean[:10] and grey["accuracy"] == both / 20


def test_a_gradient_that_is_zero_in_a_few_pixels(standard, few, one_step):
    frame = keras.layers.ZeroPadding2D(1)
    found = collect_diagnostics(chain(keras.layers.Cropping2D(1), frame, standard), *few, EPS, settings=SHORTEST)
    assert set(found["zero_gradient"]) == {"0"}


def test_diagnostics_are_json_values_and_contain_the_cost(diagnostics):
    assert run_checks(json.loads(json.dumps(diagnostics, allow_nan=False))) == run_checks(diagnostics)
    attacks = diagnostics["attacks"]
    assert attacks["fgsm"]["gradients"] == N and attacks["grey"]["gradients"] == attacks["square"]["gradients"] == 0
    assert all(attack["seconds"] > 0 for name, attack in attacks.items() if name != "grey")
    own = sum(attack["gradients"] for name, attack in attacks.items() if name != "transfer")
    assert N < own <= N * (10 * (4 * (2 + 4) + 1) + 1)
    assert attacks["transfer"]["gradients"] == survivors(attacks, WHITE_BOX) * 4 * 10  # all steps on the surrogate


def survivors(attacks, names):
    """How many images none of the attacks changes."""
    return sum(set(flags) == {"1"} for flags in zip(*(attacks[name]["right"] for name in names), strict=True))


def test_an_attack_gets_only_the_images_that_decide_its_check(diagnostics):
    """An attack that a check compares with earlier ones gets the images on which these fail."""
    attacks = diagnostics["attacks"]
    for name, after in {"pgd-restarts": ["pgd"], "apgd-t": ["apgd-ce"], "square": WHITE_BOX}.items():
        left = survivors(attacks, after)
        assert 0 < left < N and survivors(attacks, [name]) == survivors(attacks, [name, *after]) <= left
    assert 0 < attacks["square"]["forwards"] <= survivors(attacks, WHITE_BOX) * (SHORT.queries + 3)


def test_no_image_is_left_for_the_last_attacks(few):
    """A linear model of one pixel's sign: every image is adversarial under FGSM, and later attacks cost nothing."""
    x, y = few[0][:8] * 0 + 0.5, np.zeros(8, int)
    model = chain(keras.layers.Flatten(), keras.layers.Dense(2))
    model.layers[-1].set_weights([np.tile([[-1.0, 1.0]], (64, 1)), np.array([32.1, -32.1])])
    attacks = collect_diagnostics(model, x, y, EPS, settings=SHORTEST)["attacks"]
    assert attacks["square"] == {
        "eps": EPS,
        "right": "0" * 8,
        "accuracy": 0,
        "seconds": 0,
        "gradients": 0,
        "forwards": 0,
    }


@pytest.mark.long
def test_the_batch_size_changes_only_the_cost(diagnostics, standard, few):
    settings = dataclasses.replace(SHORT, batch_size=50)
    again = collect_diagnostics(standard, *few, np.float32(EPS), surrogate=standard, settings=settings)
    json.dumps(again)  # fails for numbers of numpy
    left = [{k: v["right"] for k, v in found["attacks"].items()} for found in (again, diagnostics)]
    assert left[0] == left[1] and len(left[0]) == 10
    assert again["clean"] == diagnostics["clean"] and again["zero_gradient"] == diagnostics["zero_gradient"]


def test_large_logits(standard, few):
    found = collect_diagnostics(chain(standard, keras.layers.Rescaling(1e4)), *few, EPS, settings=SHORT)
    assert suspicious(run_checks(found)) == {"zero gradients", "cross-entropy", "large eps"}


def test_a_layer_without_gradient(standard, few):
    found = collect_diagnostics(chain(Round(), standard), *few, EPS, settings=SHORT)
    assert suspicious(run_checks(found)) == {"zero gradients", "black box", "large eps"}


def test_a_loss_with_many_local_maxima(standard, few):
    found = collect_diagnostics(chain(Wave(), standard), *few, EPS, settings=SHORT)
    assert {"iterations", "steps"} <= suspicious(run_checks(found))


def test_a_random_model(standard, few, one_step):
    found = collect_diagnostics(chain(Noise(), standard), *few, EPS, settings=SHORT)
    assert "randomness" in suspicious(run_checks(found))
    (check,) = [check for check in run_checks(found) if check.name == "randomness"]
    assert found["random_layers"] == ["noise"] and "random because of noise; attack" in check.sentence
    assert {c.name: c for c in run_checks(found)}["probabilities"].passed and found["change"] > 0.1


def test_a_softmax_layer_that_attacks_refuse(standard, few):
    found = collect_diagnostics(chain(standard, keras.layers.Softmax()), *few, EPS, settings=SHORT)
    assert "softmax" in found["refused"] and found["attacks"] == {} and found["clean"]["accuracy"] > 0.85
    checks = run_checks(json.loads(json.dumps(found)))
    assert suspicious(checks) == {"probabilities"}
    assert {check.name for check in checks if check.passed} == {"randomness"}


def test_a_softmax_that_attacks_do_not_recognize(standard, few, one_step):
    found = collect_diagnostics(Probabilities(standard), *few, EPS, settings=SHORTEST)
    assert found["refused"] is None and "probabilities" in suspicious(run_checks(found))


@pytest.mark.parametrize("visible", [True, False])
def test_an_expectation_of_probabilities(standard, few, visible, one_step):
    """It takes a softmax of its own, so that its outputs are no probabilities of one pass."""
    softmax = chain(standard, keras.layers.Softmax()) if visible else Probabilities(standard)
    found = collect_diagnostics(tfadv.expectation(softmax, 2), *few, EPS, settings=SHORTEST)
    assert (found["refused"] is not None) == visible and "probabilities" in suspicious(run_checks(found))


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(eps=0.0), "eps"),
        (dict(eps=[0.1, 0.2]), "eps"),
        (dict(x=np.zeros((4, 8, 8, 1), "uint8")), "float32"),
        (dict(x=np.zeros((0, 8, 8, 1), "float32"), y=np.zeros(0, int)), "image"),
        (dict(y=np.full(4, 10)), "y must"),
    ],
)
def test_invalid_arguments(standard, wrong, named):
    arguments = dict(x=np.zeros((4, 8, 8, 1), "float32"), y=np.zeros(4, int), eps=EPS) | wrong
    with pytest.raises(ValueError, match=named):
        collect_diagnostics(standard, **arguments)


@pytest.mark.parametrize("wrong", [{"factor": 1}, {"steps": 0}, {"batch_size": 0}, {"targets": 0}, {"queries": 0.5}])
def test_invalid_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DiagnosticSettings(**wrong)


def test_checks_in_one_call(standard, few, diagnostics):
    assert check_gradient_masking(standard, *few, EPS, surrogate=standard, settings=SHORT) == run_checks(diagnostics)


def test_a_resumed_call_gives_the_same_diagnostics(standard, few, diagnostics, tmp_path):
    """The second call is served from the log, except for one-step attacks and predictions."""
    common = dict(surrogate=standard, settings=SHORT)
    for _ in range(2):
        execution = Execution(resume=ResumeLog(tmp_path, interval=0.0))
        again = collect_diagnostics(standard, *few, EPS, execution=execution, **common)
        for name, attack in again["attacks"].items():
            attack = {key: value for key, value in attack.items() if key != "seconds"}
            assert attack.items() <= diagnostics["attacks"][name].items(), name


def test_outputs_that_are_not_finite(standard, few):
    with pytest.raises(ValueError, match="finite"):
        collect_diagnostics(chain(standard, keras.layers.Rescaling(np.inf)), *few, EPS)


@pytest.mark.long
def test_a_network_trained_on_fgsm_alone_overfits_to_it(real_data):
    """MNIST at eps 0.3: in the end the model is robust under FGSM and not at all under PGD."""
    dataset, eps = sources.load("mnist", real_data, 28), 0.3
    images, labels = dataset.images[:5200] / np.float32(255), dataset.labels[:5200].astype("int64")
    few = images[5000:][:N], labels[5000:][:N]
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
            model.train_on_batch(FGSM()(model, images[part], labels[part], eps), labels[part])
        left = np.mean(np.argmax(model(FGSM()(model, *few, eps)), axis=1) == few[1])
        if left > 0.9:
            break
    found = run_checks(collect_diagnostics(model, *few, eps, settings=SHORT))
    assert "catastrophic overfitting" in suspicious(found), left
    assert not suspicious(found) - {"catastrophic overfitting", "label leaking", "iterations"}
