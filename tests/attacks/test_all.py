"""What holds for every attack of the table."""

import functools
import sys

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfadv import attacks
from tfadv.attacks import apgd, autoattack, bim, fab, gradient, mifgsm, onestep, pgd, square
from tfadv.errors import UserError

FEW = {  # settings with which a call takes little time
    **dict.fromkeys(("bim", "pgd", "mifgsm"), {"steps": 3}),
    **dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab"), {"steps": 8}),
    "square": {"steps": 20},
    "autoattack": {"steps": 8, "queries": 20},
}
NAMES = list(attacks.ATTACKS)
IN_L2 = ("pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "square", "autoattack")
UNTIL_BROKEN = [name for name in NAMES if name not in ("fgsm", "onestep")]


def attack(name, *args, **settings):
    return attacks.get(name)(*args, **(FEW.get(name, {}) | settings)).numpy()


def right(model, x, y):
    return np.argmax(model(x), axis=1) == y


def norms(d, norm):
    d = d.reshape(len(d), -1)
    return np.abs(d).max(1) if norm == "linf" else np.sqrt((d.astype("float64") ** 2).sum(1))


@pytest.mark.parametrize("name, norm", [(n, "linf") for n in NAMES] + [(n, "l2") for n in IN_L2])
def test_ball_and_range(small, name, norm):
    model, x, y = small

    @hypothesis.settings(deadline=None, max_examples=12)
    @hypothesis.given(eps=st.floats(0, 1.5, width=32), seed=st.integers(0, 2**40))
    @hypothesis.example(eps=0.0, seed=0)
    @hypothesis.example(eps=1e-30, seed=0)
    def holds(eps, seed):
        made = attack(name, model, x, y, eps, seed=seed, **({"norm": norm} if norm == "l2" else {}))
        assert made.dtype == np.float32 and made.shape == x.shape
        assert norms(made - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
        assert made.min() >= 0 and made.max() <= 1
        if eps == 0:
            np.testing.assert_array_equal(made, x)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_another_clip_is_kept(small, name):
    model, x, y = small
    made = attack(name, model, 0.3 + 0.3 * x, y, 0.5, clip=(0.25, 0.7))
    assert made.min() >= 0.25 and made.max() <= np.float32(0.7)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_broken_and_several_eps_are_nested(small, name):
    model, x, y = small
    made = attack(name, model, x, y, [0.2, 0.05, 0.2])
    assert made.shape == (3, *x.shape)
    np.testing.assert_array_equal(made[0], made[2])
    assert right(model, made[0], y).sum() <= right(model, made[1], y).sum() <= right(model, x, y).sum()
    assert right(model, made[0], y).mean() < 0.6
    if name in UNTIL_BROKEN:
        wrong = ~right(model, made[1], y)
        np.testing.assert_array_equal(made[0][wrong], made[1][wrong])  # what broke it at the smaller eps
        np.testing.assert_array_equal(made[0][-2:], x[-2:])  # wrong already


@pytest.mark.parametrize("name", NAMES)
def test_no_result_depends_on_the_batch(small, name):
    """Whether an image is broken depends on the image and the seed alone."""
    model, x, y = small
    whole = right(model, attack(name, model, x, y, 0.02), y)
    parts = [right(model, attack(name, model, x[i:j], y[i:j], 0.02), y[i:j]) for i, j in ((0, 7), (7, 40))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert 10 < whole.sum() < 38


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_images(small, name):
    model, x, y = small
    np.testing.assert_array_equal(*(attack(name, model, x, y, 0.08, seed=3) for _ in range(2)))


def test_model_is_left_alone():
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(5)])
    before = [w.copy() for w in model.get_weights()]
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
    for name in NAMES:
        attack(name, model, x, np.argmax(model(x), axis=1), 0.02)
        for a, b in zip(before, model.get_weights()):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["onestep", "apgd-dlr", "autoattack"])
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(of_classes, name, classes):
    model, x, y = of_classes(classes)
    made = attack(name, model, x, y, 0.3)
    assert right(model, made, y).mean() < 0.6 and np.isfinite(made).all()


@pytest.mark.parametrize(
    "function, settings",
    [
        (pgd, {"steps": 5, "until_broken": True}),
        (apgd, {"steps": 8}),
        (apgd, {"steps": 8, "loss": "dlr"}),
        (fab, {"steps": 8}),
        (square, {"steps": 20}),
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_target_is_reached_and_only_that_counts(small, function, settings, norm):
    model, x, y = small
    target = (y + 1) % 5
    start = right(model, x, target)
    made = function(model, x, target, 2.0 if norm == "l2" else 0.3, targeted=True, norm=norm, **settings).numpy()
    reached = right(model, made, target)
    assert reached.sum() > start.sum() + 15
    np.testing.assert_array_equal(made[~reached], x[~reached])


def test_nothing_is_traced_anew_over_values(small):
    model, x, y = small
    calls = [
        lambda n, eps, k: pgd(model, x[:n], y[:n], eps, steps=k, restarts=2, seed=k, targeted=k > 2, step_size=0.1 * k),
        lambda n, eps, k: apgd(model, x[:n], y[:n], eps, steps=k, restarts=k, targeted=k > 2, seed=k),
        lambda n, eps, k: apgd(model, x[:n], y[:n], eps, steps=k, loss="dlr-t", targets=k),
        lambda n, eps, k: fab(model, x[:n], y[:n], eps, steps=k, targets=k, restarts=k, seed=k),
        lambda n, eps, k: square(model, x[:n], y[:n], eps, steps=k, restarts=k, seed=k),
        lambda n, eps, k: mifgsm(model, x[:n], y[:n], eps, steps=k, decay=k / 2),
        lambda n, eps, k: autoattack(model, x[:n], y[:n], eps, steps=k, queries=k, targets=k, batch_size=3 * k),
    ]

    def counts():
        modules = [m for name, m in sys.modules.items() if name.startswith("tfadv.attacks.")]
        tables = [t for m in modules for t in vars(m).values() if isinstance(t, gradient.PerModel)]
        found = [f for t in {id(t): t for t in tables}.values() for f in t._compiled.get(model, {}).values()]
        return len(found), [f.experimental_get_tracing_count() for f in found]

    for call in calls:
        call(40, 0.02, 2)
        before = counts()
        for n, eps, k in ((7, 0.3, 1), (40, [0.01, 0.02], 4), (1, 1, 3)):
            call(n, eps, k)
        assert counts() == before and set(before[1]) == {1}


@pytest.mark.parametrize("name", UNTIL_BROKEN)
def test_compiled_is_eager(small, name):
    model, x, y = small
    compiled = attack(name, model, x[:6], y[:6], 0.08)
    tf.config.run_functions_eagerly(True)
    try:
        eager = attack(name, model, x[:6], y[:6], 0.08)
    finally:
        tf.config.run_functions_eagerly(False)
    assert (compiled != x[:6]).any()
    np.testing.assert_allclose(compiled, eager, atol=1e-5)


@pytest.mark.parametrize("name", ["pgd", "apgd-t", "fab", "square"])
def test_xla_breaks_the_same_images(small, name, monkeypatch):
    model, x, y = small
    plain = right(model, attack(name, model, x, y, 0.02), y)
    monkeypatch.setattr(gradient, "xla", lambda choice="auto": True)
    fixed = right(model, attack(name, model, x, y, 0.02), y)
    assert (plain != fixed).sum() <= 2  # rounding
    assert 10 < fixed.sum() < 38


@pytest.mark.parametrize("name", UNTIL_BROKEN)
def test_broken_images_cost_nothing_more(small, name):
    model, x, y = small
    easy, hard = attacks.Cost(), attacks.Cost()
    steps = {} if name == "autoattack" else {"steps": 20}
    attack(name, model, x, y, 1.0, cost=easy, **steps)
    attack(name, model, x, y, 1e-6, cost=hard, **steps)
    assert 0 < 2 * (easy.gradients + easy.forwards) < hard.gradients + hard.forwards


def test_cost_of_images_that_never_break(small):
    """38 images are right; a clean forward pass each, for all 40; then as the docstrings say."""
    model, x, y = small

    def cost(function, **settings):
        counted = attacks.Cost()
        function(model, x, y, 1e-7, cost=counted, **settings)
        return counted.gradients, counted.forwards

    assert cost(attacks.fgsm) == (40, 0)
    assert cost(bim, steps=5) == (200, 0)
    assert cost(pgd, steps=5, restarts=2) == (5 * (40 + 38), 40 + 38)  # the wrong ones are broken by the first
    assert cost(pgd, steps=5, restarts=2, until_broken=True) == (380, 40 + 76)
    assert cost(apgd, steps=7) == (38 * 7, 40 + 38)
    assert cost(apgd, steps=7, loss="dlr-t", targets=3) == (38 * 21, 40 + 38 * 3)
    assert cost(fab, steps=7, targets=3) == (38 * 21, 40 + 38 * 21)
    assert cost(square, steps=11) == (0, 40 + 38 * 11)


def test_nan_is_never_a_success():
    """A network whose logits are NaN away from the images themselves."""

    class Fragile(keras.Model):
        def call(self, x, training=False):
            total = tf.reduce_sum(x, axis=(1, 2, 3))
            return tf.where(total > 4.003, np.nan, 1.0)[:, None] * tf.constant([[0.0, 1.0]])

    model, x = Fragile(), np.full((3, 2, 2, 2), 0.5, "float32")
    for name in ("pgd", "apgd-ce", "square"):
        for seed in range(6):
            np.testing.assert_array_equal(attack(name, model, x, np.ones(3, int), 0.01, seed=seed), x)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "apgd-t", "fab"])
def test_zero_gradient_does_no_harm(name):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.set_weights([np.zeros((16, 5)), np.arange(5.0)])
    x = np.random.default_rng(0).uniform(size=(4, 4, 4, 1)).astype("float32")
    made = attack(name, model, x, np.full(4, 4), 0.1)
    assert np.isfinite(made).all() and right(model, made, np.full(4, 4)).all()


@pytest.mark.parametrize(
    "function, change, words",
    [
        (pgd, {"restarts": 0}, "restarts"),
        (pgd, {"loss": "dlr-t"}, "unknown loss"),
        (pgd, {"norm": "l1"}, "unknown norm"),
        (apgd, {"steps": 0}, "steps"),
        (apgd, {"steps": 1.5}, "steps"),
        (apgd, {"loss": "dlrt"}, "unknown loss 'dlrt': did you mean 'dlr-t'"),
        (apgd, {"loss": "dlr-t", "targeted": True}, "chooses its targets"),
        (fab, {"targets": 0}, "targets"),
        (square, {"steps": -1}, "steps"),
        (mifgsm, {"decay": -1}, "decay"),
        (mifgsm, {"step_size": 0}, "step_size"),
        (bim, {"step_size": np.nan}, "step_size"),
        (onestep, {"target": "likely"}, "did you mean 'least-likely'"),
        (autoattack, {"attacks": ["pgd"]}, "unknown attack"),
        (autoattack, {"batch_size": 0}, "batch_size"),
        (autoattack, {"eps": -1}, "eps"),
    ],
)
def test_bad_arguments_are_named(small, function, change, words):
    model, x, y = small
    with pytest.raises((ValueError, UserError), match=words):
        function(model, x, y, **({"eps": 0.1} | change))


def test_one_logit_is_refused():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="two for two classes"):
        pgd(model, np.zeros((1, 4, 4, 1), "float32"), [0], 0.1)


def test_names():
    assert attacks.get("fgsm") is attacks.fgsm
    assert all(callable(attacks.get(name)) for name in NAMES)
    assert isinstance(attacks.get("pgd"), functools.partial)
    with pytest.raises(UserError, match="unknown attack 'apgd_ce': did you mean 'apgd-ce'"):
        attacks.get("apgd_ce")
