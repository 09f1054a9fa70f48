"""The rules on facts made by hand, and on models that mask their gradients on purpose."""

import copy
import json

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from tfadv.attacks import fgsm, pgd
from tfadv.evaluation.masking import measure
from tfadv.evaluation.verdict import RULES, Check, judge

N, RIGHT, EPS = 128, 120, 0.1
FEW = {"steps": 10, "more": 4, "targets": 2, "queries": 200}
BARELY = {"steps": 1, "more": 2, "targets": 1, "queries": 1}

# ---- judge() on facts made by hand: each attack leaves the first so many images right, of which 120 are at first


def first(count, n=N):
    return "1" * count + "0" * (n - count)


HONEST = {
    "n": N,
    "eps": EPS,
    "probability_rows": 0,
    "change": 2e-7,
    "clean": {"right": first(RIGHT)},
    "refused": None,
    "zero_gradient": first(0),
    "attacks": {
        name: {"eps": 0.5 if name in ("pgd-large", "grey") else EPS, "right": first(left)}
        for name, left in {
            "fgsm": 60,
            "pgd": 50,
            "pgd-steps": 49,
            "pgd-restarts": 48,
            "pgd-large": 0,
            "grey": 12,
            "apgd-ce": 49,
            "apgd-t": 46,
            "square": 58,
        }.items()
    },
}


def facts(of_outputs=(), **left):
    """HONEST but for some entries, and some attacks (_ for -) that leave so many, or just these, images right."""
    made = copy.deepcopy(HONEST) | dict(of_outputs)
    for name, right in left.items():
        entry = made["attacks"].setdefault(name.replace("_", "-"), {"eps": EPS})
        entry["right"] = first(right) if isinstance(right, int) else right
    return made


def suspicious(checks):
    return {check.name for check in checks if check.passed is False}


WHITE_BOX_46 = dict.fromkeys(("fgsm", "pgd", "pgd_steps", "pgd_restarts", "apgd_ce", "apgd_t"), 46)
LEAKING = "0" * 2 + first(RIGHT, 124)[2:] + "1" * 4  # four images became right, two wrong
CASES = [  # name of the check, what just passes, what is just suspicious
    ("probabilities", facts({"probability_rows": N - 1}), facts({"probability_rows": N})),
    ("randomness", facts({"change": 0.9e-4}), facts({"change": 1.1e-4})),
    ("zero gradients", facts({"zero_gradient": first(10)}), facts({"zero_gradient": first(11)})),
    ("zero gradients", facts({"zero_gradient": first(N - RIGHT)[::-1]}), facts({"zero_gradient": first(N)})),
    ("iterations", facts(fgsm=45, pgd=50), facts(fgsm=44, pgd=50)),
    ("weaker with steps", facts(pgd_steps=55), facts(pgd_steps=56)),
    ("steps", facts(pgd_steps=40), facts(pgd_steps=39)),
    ("restarts", facts(pgd_restarts=40), facts(pgd_restarts=39)),
    ("black box", facts(square=43), facts(square=42)),
    ("black box", facts(**WHITE_BOX_46, square=43), facts(**WHITE_BOX_46, square=42)),
    ("black box", facts(transfer=43), facts(transfer=42)),
    ("black box", facts(square=43, transfer=90), facts(square=90, transfer=10)),
    ("cross-entropy", facts(apgd_ce=64), facts(apgd_ce=65)),
    ("large eps", facts(pgd_large=22), facts(pgd_large=23)),
    ("large eps", facts(pgd_large=RIGHT, grey=RIGHT), facts(pgd_large=RIGHT, grey=0)),
    ("label leaking", facts(fgsm=LEAKING), facts(fgsm="1" * (RIGHT + 4) + "0" * 4)),
    ("label leaking", facts(fgsm=RIGHT), facts(fgsm=N)),
    ("catastrophic overfitting", facts(fgsm=99, pgd=0), facts(fgsm=100, pgd=0)),
    ("catastrophic overfitting", facts(fgsm=118, pgd=16), facts(fgsm=118, pgd=15)),
]


def one(name, made):
    return {check.name: check for check in judge(made)}[name]


@pytest.mark.parametrize("name, fine, bad", CASES)
def test_where_each_rule_begins(name, fine, bad):
    passed, failed = one(name, fine), one(name, bad)
    assert passed.passed is True and failed.passed is False
    assert passed.sentence != failed.sentence
    for check in (passed, failed):
        assert check.sentence.endswith(".") and check.sentence.count("\n") == 0
        assert json.loads(json.dumps(check.figures)) == check.figures
        assert all(type(v) in (int, float) for v in check.figures.values()) and check.figures


def test_honest_facts_pass_every_rule():
    checks = judge(HONEST)
    assert [check.name for check in checks] == list(RULES) and {name for name, *_ in CASES} == set(RULES)
    assert all(check.passed is True for check in checks)


def test_facts_stay_as_they_are():
    before = copy.deepcopy(HONEST)
    judge(HONEST)
    assert before == HONEST


def test_figures_are_of_the_images_right_unattacked():
    check = one("iterations", facts(fgsm=40, pgd="1" * 50 + "0" * 70 + "1" * 8))
    assert check.figures["images"] == 10 and check.figures["of"] == RIGHT and check.figures["tolerated"] == 0.02
    assert check.figures["share"] == pytest.approx(10 / 120) and check.figures["low"] == pytest.approx(0.0459, abs=1e-4)
    assert "10 of 120 images (8.3%)" in check.sentence


def test_the_same_share_of_few_images_proves_less():
    few = facts({"n": 24, "clean": {"right": first(24, 24)}, "zero_gradient": first(2, 24)})
    many = facts({"n": 240, "clean": {"right": first(240, 240)}, "zero_gradient": first(20, 240)})
    for made in (few, many):
        n = made["n"]
        for entry in made["attacks"].values():
            entry["right"] = first(0, n)
    assert one("zero gradients", few).passed and not one("zero gradients", many).passed


def test_what_was_not_measured_is_neither_passed_nor_suspicious():
    refused = facts({"refused": "ends in a softmax", "attacks": {}, "zero_gradient": "", "probability_rows": N})
    hopeless = facts({"clean": {"right": first(0)}})
    for made in (refused, hopeless):
        checks = judge(made)
        assert {c.name for c in checks if c.passed is not None} == {"probabilities", "randomness"}
        assert all(c.sentence.startswith("Not measured") for c in checks if c.passed is None)
    assert suspicious(judge(refused)) == {"probabilities"}


def test_checks_are_frozen():
    with pytest.raises(AttributeError):
        Check("a", True, {}, "b").passed = False


# ---- measure() and judge() on real models


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
    assert one("probabilities", found).passed and found["change"] > 0.1


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
