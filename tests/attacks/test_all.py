"""What holds for every attack of the table."""

import sys

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import tfadv
from tests.attacks.conftest import is_right
from tests.attacks.test_loop import Interrupted, MemoryLog
from tfadv.attacks import (
    APGD,
    ATTACKS,
    BIM,
    FAB,
    FGSM,
    FMN,
    MIFGSM,
    PGD,
    AutoAttack,
    Cost,
    Fast,
    OneStep,
    SparseRS,
    Square,
    loop,
)
from tfadv.errors import UserError
from tfadv.models.compiled import PerModel
from tfadv.runtime import compilation

FEW = {  # settings with which a call takes little time
    **dict.fromkeys(("bim", "pgd", "mifgsm"), {"steps": 3}),
    **dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"), {"steps": 8}),
    **dict.fromkeys(("fmn", "ddn", "sigma-zero"), {"steps": 20}),
    "square": {"steps": 20},
    "sparse-rs": {"steps": 8},
    "hopskipjump": {"queries": 400},
    "rays": {"queries": 60},
    **dict.fromkeys(("fast", "autoattack"), {"steps": 8, "queries": 20}),
}
NAMES = [name for name in ATTACKS if ATTACKS[name]().has_eps]  # the others: test_corruptions.py, test_spatial.py
IN_LINF = [name for name in NAMES if name not in ("ddn", "sigma-zero", "sparse-rs")]
IN_L2 = (
    *("pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "fmn", "ddn", "square", "hopskipjump", "fast"),
    "autoattack",
)
IN_L1 = ("pgd", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "fmn", "square", "fast", "autoattack")
EARLY_STOP = [name for name in NAMES if name not in ("fgsm", "onestep")]


def attack(name, *inputs, seed=0, clip=(0.0, 1.0), cost=None, image_numbers=None, **settings):
    """The adversarial images of the attack of that name with few steps, and a size in its own unit."""
    if "norm" not in settings:
        inputs = (*inputs[:3], own_size(name, inputs[3]))
    common = {"seed": seed, "clip": clip, "cost": cost, "image_numbers": image_numbers}
    return ATTACKS[name](**FEW.get(name, {}) | settings)(*inputs, **common).numpy()


def own_size(name, eps):
    """Of ddn, whose eps is in L2, five times eps; of those that count, eps as a share of 30 of the 36 pixels."""
    if name in ("sigma-zero", "sparse-rs"):
        return np.ceil(np.multiply(eps, 30.0)).tolist()
    return np.multiply(eps, 5.0 if name == "ddn" else 1.0).tolist()


def norms(d, norm):
    d = d.reshape(len(d), -1)
    return np.linalg.norm(d.astype("float64"), {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@pytest.mark.parametrize(
    "name, norm",
    [
        *((n, "linf") for n in IN_LINF),
        *((n, "l2") for n in IN_L2),
        *((n, "l1") for n in IN_L1),
    ],
)
def test_stays_within_eps_and_clip(small, name, norm):
    model, x, y = small

    @hypothesis.settings(max_examples=6)
    @hypothesis.given(eps=st.floats(0, 1, width=32), seed=st.integers(0, 2**40))
    @hypothesis.example(eps=0.0, seed=0)
    @hypothesis.example(eps=1e-30, seed=0)
    def holds(eps, seed):
        adversarial = attack(name, model, x, y, eps, seed=seed, **({} if norm == "linf" else {"norm": norm}))
        assert adversarial.dtype == np.float32 and adversarial.shape == x.shape
        assert norms(adversarial - x, norm).max() <= eps * (1 + 1e-5) + 1e-6
        assert adversarial.min() >= 0 and adversarial.max() <= 1
        if eps == 0:
            np.testing.assert_array_equal(adversarial, x)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_another_clip(small, name):
    model, x, y = small
    adversarial = attack(name, model, 0.3 + 0.3 * x, y, 0.5, clip=(0.25, 0.7))
    assert adversarial.min() >= 0.25 and adversarial.max() <= np.float32(0.7)


@pytest.mark.parametrize("name", NAMES)
def test_images_become_adversarial_and_several_eps_are_nested(small, name):
    model, x, y = small
    adversarial = attack(name, model, x, y, [0.2, 0.05, 0.2])
    assert adversarial.shape == (3, *x.shape)
    np.testing.assert_array_equal(adversarial[0], adversarial[2])
    assert (
        is_right(model, adversarial[0], y).sum()
        <= is_right(model, adversarial[1], y).sum()
        <= is_right(model, x, y).sum()
    )
    assert is_right(model, adversarial[0], y).mean() < 0.6
    if name in EARLY_STOP:
        wrong = ~is_right(model, adversarial[1], y)
        np.testing.assert_array_equal(adversarial[0][wrong], adversarial[1][wrong])  # the image of the smaller eps
        np.testing.assert_array_equal(adversarial[0][-2:], x[-2:])  # wrong unattacked


@pytest.mark.parametrize("name", NAMES)
def test_no_result_depends_on_the_batch(small, name):
    """Whether an image becomes adversarial depends on the image, its number and the seed alone."""
    model, x, y = small
    whole = is_right(model, attack(name, model, x, y, 0.02), y)
    parts = [
        is_right(model, attack(name, model, x[i:j], y[i:j], 0.02, image_numbers=range(i, j)), y[i:j])
        for i, j in ((0, 7), (7, 40))
    ]
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
    for name in ("fgsm", "pgd", "fmn", "hopskipjump", "autoattack"):  # one of each kind
        attack(name, model, x, np.argmax(model(x), axis=1), 0.02)
        for a, b in zip(before, model.get_weights()):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["onestep", "apgd-dlr", "fast", "autoattack"])
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(of_classes, name, classes):
    model, x, y = of_classes(classes)
    adversarial = attack(name, model, x, y, 0.3)
    assert is_right(model, adversarial, y).mean() < 0.6 and np.isfinite(adversarial).all()


@pytest.mark.parametrize(
    "kind, settings",
    [
        (PGD, {"steps": 5}),
        (APGD, {"steps": 8}),
        (APGD, {"steps": 8, "loss": "dlr"}),
        (FAB, {"steps": 8}),
        (FAB, {"steps": 8, "targets": 9}),
        (FMN, {"steps": 20}),
        (Square, {"steps": 20}),
    ],
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_target_is_reached_and_only_that_counts(small, kind, settings, norm):
    model, x, y = small
    target = (y + 1) % 5
    start = is_right(model, x, target)
    eps = {"linf": 0.3, "l2": 2.0, "l1": 12.0}[norm]
    adversarial = kind(targeted=True, norm=norm, **settings)(model, x, target, eps).numpy()
    reached = is_right(model, adversarial, target)
    assert reached.sum() > start.sum() + 15
    np.testing.assert_array_equal(adversarial[~reached], x[~reached])


def test_nothing_is_traced_anew_over_values(small):
    model, x, y = small
    calls = [
        lambda n, eps, k: PGD(steps=k, restarts=2, targeted=k > 2, step_size=0.1 * k)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: APGD(steps=k, restarts=k, targeted=k > 2)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: APGD(steps=k, loss="dlr-t", targets=k)(model, x[:n], y[:n], eps),
        lambda n, eps, k: FAB(steps=k, targets=k, restarts=k)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: FAB(steps=k, restarts=k)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: FMN(steps=k)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: Square(steps=k, restarts=k)(model, x[:n], y[:n], eps, seed=k),
        lambda n, eps, k: SparseRS(steps=k, restarts=k)(model, x[:n], y[:n], own_size("sparse-rs", eps)),
        lambda n, eps, k: MIFGSM(steps=k, decay=k / 2)(model, x[:n], y[:n], eps),
        lambda n, eps, k: Fast(steps=k, queries=k)(model, x[:n], y[:n], eps, batch_size=3 * k),
        lambda n, eps, k: AutoAttack(steps=k, queries=k, targets=k)(model, x[:n], y[:n], eps, batch_size=3 * k),
    ]

    def counts():
        modules = [m for name, m in sys.modules.items() if name.startswith("tfadv.")]
        tables = [t for m in modules for t in vars(m).values() if isinstance(t, PerModel)]
        functions = [f for t in {id(t): t for t in tables}.values() for f in t._compiled.get(model, {}).values()]
        return len(functions), [f.experimental_get_tracing_count() for f in functions]

    for call in calls:
        call(40, 0.02, 2)
        before = counts()
        for n, eps, k in ((7, 0.3, 1), (40, [0.01, 0.02], 4), (1, 1, 3)):
            call(n, eps, k)
        assert counts() == before and set(before[1]) == {1}


@pytest.mark.parametrize("name", EARLY_STOP)
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


@pytest.mark.parametrize(
    "name",
    [
        "pgd",
        "square",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("apgd-t", "fab", "fab-t", "fast", "autoattack")),
    ],
)
def test_xla_finds_the_same_images_adversarial(small, name):
    model, x, y = small
    plain = is_right(model, attack(name, model, x, y, 0.02), y)
    compilation.configure(jit_compile="true")
    try:
        fixed = is_right(model, attack(name, model, x, y, 0.02), y)
    finally:
        compilation.configure()
    assert (plain != fixed).sum() <= 2  # rounding
    assert 10 < fixed.sum() < 38


@pytest.mark.parametrize("name", EARLY_STOP)
def test_adversarial_images_cost_nothing_more(small, name):
    model, x, y = small
    easy, hard = Cost(), Cost()
    steps = {} if name in ("autoattack", "hopskipjump", "rays") else {"steps": 20}
    attack(name, model, x, y, 1.0, cost=easy, **steps)
    attack(name, model, x, y, 1e-6, cost=hard, **steps)
    assert 0 < 2 * (easy.gradients + easy.forwards) < hard.gradients + hard.forwards


def test_cost_of_images_that_stay_right(small):
    """38 images are right; a clean forward pass each, for all 40; then as the docstrings say."""
    model, x, y = small

    def cost(attack):
        counted = Cost()
        attack(model, x, y, 1e-7, cost=counted)
        return counted.gradients, counted.forwards

    assert cost(FGSM()) == (40, 0)
    assert cost(BIM(steps=5, early_stop=False)) == (200, 0)
    assert cost(PGD(steps=5, restarts=2, early_stop=False)) == (5 * (40 + 38), 40 + 38)  # the wrong ones need one start
    assert cost(PGD(steps=5, restarts=2)) == (380, 40 + 76)
    assert cost(APGD(steps=7)) == (38 * 7, 40 + 38)
    assert cost(APGD(steps=7, loss="dlr-t", targets=3)) == (38 * 21, 40 + 38 * 3)
    assert cost(FAB(steps=7, targets=3)) == (38 * 21, 40 + 38 * 21)
    assert cost(FAB(steps=7)) == (38 * 7 * 4, 40 + 38 * 7)  # five classes
    assert cost(FMN(steps=7)) == (38 * (4 + 7), 40 + 38)
    assert cost(Square(steps=11)) == (0, 40 + 38 * 11)


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


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "apgd-t", "fab", "fab-t", "fmn", "ddn", "sigma-zero"])
def test_zero_gradient_does_no_harm(name):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    model.set_weights([np.zeros((16, 5)), np.arange(5.0)])
    x = np.random.default_rng(0).uniform(size=(4, 4, 4, 1)).astype("float32")
    adversarial = attack(name, model, x, np.full(4, 4), 0.1)
    assert np.isfinite(adversarial).all() and is_right(model, adversarial, np.full(4, 4)).all()


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        (PGD, {"restarts": 0}, "restarts"),
        (PGD, {"loss": "dlr-t"}, "unknown loss"),
        (Square, {"norm": "l0"}, "unknown norm"),
        (APGD, {"steps": 0}, "steps"),
        (APGD, {"steps": 1.5}, "steps"),
        (APGD, {"loss": "dlrt"}, "unknown loss 'dlrt': did you mean 'dlr-t'"),
        (APGD, {"loss": "dlr-t", "targeted": True}, "chooses its targets"),
        (FAB, {"targets": -1}, "targets"),
        (APGD, {"targets": 0}, "targets"),
        (Square, {"steps": -1}, "steps"),
        (MIFGSM, {"decay": -1}, "decay"),
        (MIFGSM, {"step_size": 0}, "step_size"),
        (BIM, {"step_size": np.nan}, "step_size"),
        (OneStep, {"target": "likely"}, "did you mean 'least-likely'"),
        (AutoAttack, {"attacks": ["pgd"]}, "unknown attack"),
    ],
)
def test_bad_settings_are_named(kind, settings, words):
    with pytest.raises((ValueError, UserError), match=words):
        kind(**settings)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"eps": -1}, "eps"),
        ({"y": ["3"] * 40}, "class numbers, got texts"),
        ({"y": np.full(40, 3.7)}, "class numbers, got numbers with decimals"),
        ({"y": np.full(40, np.nan)}, "class numbers, got numbers with decimals"),
        ({"image_numbers": [3]}, r"image_numbers must be one number per image, \(40,\); got shape \(1,\)"),
        ({"image_numbers": 3}, r"one number per image, \(40,\); got shape \(\)"),
    ],
)
@pytest.mark.parametrize("name", ["pgd", "autoattack"])
def test_bad_arguments_are_named(small, name, change, words):
    model, x, y = small
    with pytest.raises(ValueError, match=words):
        ATTACKS[name]()(model, x, **({"y": y, "eps": 0.1} | change))


def test_a_call_inside_a_graph_is_refused(small):
    model, x, y = small
    with pytest.raises(ValueError, match="FGSM.one_pass"):
        tf.function(lambda x: FGSM()(model, x, y, 0.1))(x)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "fab", "autoattack"])
def test_no_images(small, name):
    model, x, y = small
    assert attack(name, model, x[:0], y[:0], [0.1, 0.2]).shape == (2, 0, 6, 6, 2)


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_those_of_single_calls_and_progress_counts_images(small, name):
    model, x, y = small
    one, done, cost, costs = ATTACKS[name](**FEW.get(name, {})), [], Cost(), Cost()
    eps = own_size(name, 0.02)
    whole = one(model, x, y, eps, batch_size=16, progress=done.append, cost=cost)
    assert sum(done) == 40 and len(done) > 2
    if name not in ("fast", "autoattack"):  # which collect their own batches
        parts = [
            one(model, x[i : i + 16], y[i : i + 16], eps, cost=costs, image_numbers=range(i, min(i + 16, len(x))))
            for i in (0, 16, 32)
        ]
        np.testing.assert_array_equal(whole, np.concatenate(parts))
        assert cost == costs


class Subclassed(keras.Model):
    """Has neither `output` nor `output_shape`."""

    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def call(self, x, training=False):
        return self.returned(keras.ops.mean(x, (1, 2)))


def functional(returned):
    images = keras.Input((4, 4, 3))
    return keras.Model(images, returned(keras.ops.mean(images, (1, 2))))


@pytest.mark.parametrize("model_of", [functional, Subclassed])
@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda mean: mean[:, :1], "two for two classes"),
        (lambda mean: [mean, mean[:, :2]], r"list or dict of .*, 3\), \(.*, 2\).*give the output of the classes alone"),
        (lambda mean: {"classes": mean}, "list or dict"),
        (lambda mean: mean[:, None], r"one row of logits per image, \(N, K\); it returns \(.*, 1, 3\)"),
    ],
    ids=["one_logit", "two_outputs", "dict", "three_axes"],
)
def test_models_of_other_outputs_are_refused(model_of, returned, words):
    model, x, y = model_of(returned), np.full((2, 4, 4, 3), 0.5, "float32"), [0, 1]
    for name in ("fgsm", "pgd", "square", "hopskipjump", "autoattack"):
        with pytest.raises(ValueError, match=words):
            ATTACKS[name]()(model, x, y, 0.1)
        with pytest.raises(ValueError, match=words):
            tfadv.evaluate(model, x, y, name, 0.1)
    with pytest.raises(ValueError, match=words):
        tfadv.certify(model, x, y, n=100, alpha=0.01)
    with pytest.raises(ValueError, match=words):
        tfadv.check_gradient_masking(model, x, y, 0.1)


def test_a_list_of_one_output_is_that_output_where_keras_unpacks_it():
    x, y = np.random.default_rng(0).uniform(size=(4, 4, 4, 3)).astype("float32"), [0, 1, 2, 0]
    plain, listed = (functional(returned) for returned in (lambda mean: mean, lambda mean: [mean]))
    np.testing.assert_array_equal(PGD()(listed, x, y, 0.1), PGD()(plain, x, y, 0.1))
    with pytest.raises(ValueError, match="list or dict"):
        PGD()(Subclassed(lambda mean: [mean]), x, y, 0.1)


@pytest.mark.parametrize("model_of", [functional, Subclassed])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "square"])
def test_labels_of_no_class_are_refused(model_of, name):
    with pytest.raises(ValueError, match="class numbers from 0 to 2"):
        ATTACKS[name]()(model_of(lambda mean: mean), np.full((2, 4, 4, 3), 0.5, "float32"), [1, 3], 0.1)


STEPPING = [kind(norm="l1", steps=20) for kind in (APGD, PGD, FAB, Square)]


@pytest.mark.parametrize("attack", STEPPING, ids=lambda attack: attack.name)
def test_in_l1_no_result_depends_on_the_batch_and_eager_is_graph(small, attack):
    model, x, y = small
    whole = attack(model, x, y, 0.5).numpy()
    parts = [attack(model, x[i:j], y[i:j], 0.5, image_numbers=range(i, j)) for i, j in ((0, 7), (7, 40))]
    right = is_right(model, whole, y)
    np.testing.assert_array_equal(right, is_right(model, np.concatenate(parts), y))
    assert 5 < right.sum() < 35
    tf.config.run_functions_eagerly(True)
    try:
        eager = attack(model, x[:6], y[:6], 0.5)
    finally:
        tf.config.run_functions_eagerly(False)
    assert (whole[:6] != x[:6]).any()
    np.testing.assert_allclose(whole[:6], eager, atol=1e-4)


@pytest.mark.parametrize("attack", STEPPING, ids=lambda attack: attack.name)
def test_in_l1_resumed_is_unbroken(small, attack, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)  # one step each
    unbroken, resumed, log = Cost(), Cost(), MemoryLog(stop_after=7)
    whole = attack(*small, 0.4, cost=unbroken)
    with pytest.raises(Interrupted):
        attack(*small, 0.4, resume=log)
    assert log.state[0] == 7
    again = MemoryLog(log.units, log.state)
    np.testing.assert_array_equal(attack(*small, 0.4, resume=again, cost=resumed), whole)
    assert again.chunks == 13 and resumed == unbroken


@pytest.mark.long
@pytest.mark.parametrize("attack", STEPPING, ids=lambda attack: attack.name)
def test_in_l1_xla_finds_the_same_images_adversarial(small, attack, xla):
    model, x, y = small
    fixed = is_right(model, attack(model, x, y, 0.5), y)
    compilation.configure()
    plain = is_right(model, attack(model, x, y, 0.5), y)
    assert (plain != fixed).sum() <= 2 and 5 < plain.sum() < 35  # rounding
