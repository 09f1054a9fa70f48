"""Attacks that search in bfloat16 and verify in float32."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.attacks.conftest import batch, is_right
from tests.attacks.test_all import FEW
from tfadv import evaluate
from tfadv.attacks import ATTACKS, BIM, FGSM, PGD, Attack, AutoAttack, Cost, iterative
from tfadv.attacks.base import Call
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import Execution
from tfadv.models.accelerate import accelerated
from tfadv.runtime import compilation
from tfadv.store.resume import ResumeLog

OF_FLOAT32 = ("fgsm", "onestep", "fab", "fab-t", "fmn", "ddn", "sigma-zero", "sparse-rs", "hopskipjump", "rays")
ITERATIVE = [name for name in ATTACKS if name not in OF_FLOAT32 and ATTACKS[name]().has_eps]
BFLOAT16 = "mixed_bfloat16"
IN_PART_LONG = [n if n == "pgd" else pytest.param(n, marks=pytest.mark.long) for n in ITERATIVE]


def pair(name):
    """(the attack with few steps, the same in bfloat16)."""
    attack = ATTACKS[name](**FEW.get(name, {}))
    return attack, dataclasses.replace(attack, precision=BFLOAT16)


@pytest.fixture
def search_on(monkeypatch):
    """A function that makes all attacks search on another model."""

    def search_on(model):
        monkeypatch.setattr(Attack, "_search_model", lambda attack, _: model)

    return search_on


def always(model, number):
    """A model that always predicts this class."""
    inputs = keras.Input(model.input_shape[1:])
    bias = np.zeros(model.output_shape[-1], np.float32)
    bias[number] = 1e3
    return keras.Model(inputs, keras.layers.Lambda(lambda logits: logits + bias)(model(inputs)))


@pytest.mark.parametrize("name", IN_PART_LONG)
def test_finds_almost_the_same_images_as_float32(tiny, name):
    x, _ = batch(64)
    y = np.argmax(tiny(x), axis=1)
    eps, cost = 0.03 if name == "square" else 0.004, Cost()
    in_float32, in_bfloat16 = pair(name)
    expected, found = in_float32(tiny, x, y, eps), in_bfloat16(tiny, x, y, eps, cost=cost)
    right = [is_right(tiny, images, y) for images in (expected, found)]
    assert 5 < right[0].sum() < 60
    assert (right[0] != right[1]).sum() <= 4
    if name != "square":  # whose steps only depend on which loss is larger
        assert (expected.numpy() != found.numpy()).any()
    if name == "autoattack":
        assert cost.remaining["square"] == [right[1].sum()]


def test_the_cost_counts_search_verification_and_repetition(small, search_on):
    model, x, y = small
    x, y = x[y != 0], y[y != 0]
    alone, both = Cost(), Cost()
    BIM(steps=3)(model, x, y, 0.02, cost=alone)
    search_on(always(model, 0))
    BIM(steps=3, precision=BFLOAT16)(model, x, y, 0.02, cost=both)
    attacked = is_right(model, x, y).sum()
    assert both.gradients == alone.gradients + attacked  # the search ends after one step
    assert both.forwards == alone.forwards + attacked


@pytest.mark.parametrize("name", IN_PART_LONG)
def test_an_image_that_fools_only_the_clone_is_attacked_again(small, search_on, name):
    """Where the search finds nothing but false examples, the result is that of float32."""
    model, x, y = small
    x, y = x[y != 0], y[y != 0]
    attack, in_bfloat16 = pair(name)
    expected = attack(model, x, y, [0.02, 0.08]).numpy()
    search_on(always(model, 0))
    np.testing.assert_array_equal(in_bfloat16(model, x, y, [0.02, 0.08]), expected)
    assert 0 < sum(is_right(model, expected[0], y)) < sum(is_right(model, x, y))


@pytest.mark.parametrize("name", [name for name in ITERATIVE if name != "autoattack"])
def test_the_search_is_on_the_clone(small, search_on, name):
    """Where nothing fools the clone, no image is attacked on the model itself."""
    model, x, y = small
    most = np.bincount(y).argmax()
    x, y = x[y == most], y[y == most]
    assert (pair(name)[0](model, x, y, 0.08).numpy() != x).any(axis=(1, 2, 3)).sum() > 3
    search_on(always(model, most))
    np.testing.assert_array_equal(pair(name)[1](model, x, y, 0.08), x)


@pytest.mark.long
def test_under_xla(small, search_on, xla):
    model, x, y = small
    x, y = x[y != 0], y[y != 0]
    expected = PGD(steps=3, restarts=2)(model, x, y, [0.02, 0.08], batch_size=16).numpy()
    search_on(always(model, 0))
    found = PGD(steps=3, restarts=2, precision=BFLOAT16)(model, x, y, [0.02, 0.08], batch_size=16)
    np.testing.assert_array_equal(found, expected)


def test_all_copies_of_an_image_are_attacked_again(small):
    """Where one copy claims to be adversarial, the others have left the loop unfinished."""
    model, x, y = small
    wrong = np.flatnonzero(~is_right(model, x, y))[0]
    other = np.flatnonzero(y != y[2])[0]
    rows = np.array([0, 0, wrong, wrong, 1, 1, 2, 2])
    images = tf.gather(x, [0, 0, wrong, wrong, 1, 1, 2, other])
    scores = tf.constant([-np.inf, 1.0, -np.inf, 1.0, 1.0, 1.0, -np.inf, -np.inf])
    call = Call(model, model, 0, (0.0, 1.0), Cost(), None, False, tf.range(1, dtype=tf.int64))
    false, again = PGD()._false_positives(call, (images, scores), tf.constant(y), rows)
    assert np.flatnonzero(false).tolist() == [0, 6]
    assert np.flatnonzero(again).tolist() == [0, 1]  # the other copy of image 2 is adversarial


class Stopped(Exception):
    pass


class Stopping(ResumeLog):
    """Stops at some of its calls, counted over all instances."""

    calls = 0

    def partial(self, step, arrays_fn):
        super().partial(step, arrays_fn)
        self._count()

    def done(self, arrays):
        super().done(arrays)
        self._count()

    @classmethod
    def _count(cls):
        cls.calls += 1
        if cls.calls % 3 == 0:
            raise Stopped


def test_a_resumed_search_is_the_unbroken_one(small, search_on, tmp_path, monkeypatch):
    model, x, y = small
    x, y = x[y != 0], y[y != 0]
    search_on(always(model, 0))
    attack = AutoAttack(steps=8, queries=20, precision=BFLOAT16)
    expected = attack(model, x, y, 0.02)
    stops, found = 0, None
    while found is None:
        try:
            found = attack(model, x, y, 0.02, resume=Stopping(tmp_path, interval=0.0))
        except Stopped:
            stops += 1
    assert stops >= 5
    np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(iterative, "is_adversarial", None)  # what was verified before is not verified again
    np.testing.assert_array_equal(attack(model, x, y, 0.02, resume=ResumeLog(tmp_path)), expected)


def test_fgsm_uses_the_gradient_of_the_clone(tiny):
    x, y = batch(32)
    attack = FGSM(precision=BFLOAT16)
    adversarial = attack(tiny, x, y, 0.01).numpy()
    np.testing.assert_array_equal(adversarial, FGSM()(accelerated(tiny, BFLOAT16), x, y, 0.01))
    assert (adversarial != FGSM()(tiny, x, y, 0.01).numpy()).any()
    result = evaluate(tiny, x, y, attack, [0.01])
    np.testing.assert_array_equal(result.adversarial_correct[0], is_right(tiny, adversarial, y))
    assert result.settings == {"targeted": False, "precision": BFLOAT16}


def test_a_model_that_can_not_be_computed_in_bfloat16_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x[:, 0, 0]

    x, y = batch(2, classes=3)
    for model in (Own(), tfadv.classifier(Own(), input_range=(0, 1), input_shape=x.shape[1:])):
        with pytest.raises(UserError, match="can be computed in bfloat16"):
            PGD(precision=BFLOAT16)(model, x, y, 0.1)


def test_an_attack_of_another_kind_has_no_precision(tiny):
    class Foreign:
        name = "foreign"
        one_pass = FGSM().one_pass

        def settings(self):
            return {}

    x, y = batch(8)
    result = evaluate(tiny, x, y, Foreign(), 0.01, execution=Execution())
    np.testing.assert_array_equal(result.robust, evaluate(tiny, x, y, FGSM(), 0.01).robust)


def test_clones_are_needed(tiny):
    compilation.configure(accelerate="off")
    try:
        with pytest.raises(UserError, match="needs optimized clones.*TFADV_ACCELERATE"):
            PGD(precision=BFLOAT16)(tiny, *batch(2), 0.1)
    finally:
        compilation.configure()


@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_is_float32_only(tiny, name):
    assert "precision" not in ATTACKS[name]().settings()
    x, _ = batch(16)
    y = np.argmax(tiny(x), axis=1)
    a, b = (AutoAttack(steps=8, attacks=[name], precision=p)(tiny, x, y, 0.01) for p in ("float32", BFLOAT16))
    assert (a.numpy() != x).any()
    np.testing.assert_array_equal(a, b)


def test_the_label_names_the_precision():
    assert PGD(precision=BFLOAT16).label == "pgd(precision=mixed_bfloat16)"
    assert ATTACKS["autoattack"]().label == "autoattack"
