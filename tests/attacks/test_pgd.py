import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfadv.attacks import Cost, fgsm, pgd
from tfadv.attacks.losses import LOSSES
from tfadv.attacks.pgd import _compiled_descend, _descend


def batch(n=8, shape=(16, 16, 3), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, *shape)).astype("float32"), rng.integers(0, classes, n)


def losses(model, x, y):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)).numpy()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("steps, step_size", [(1, 0.01), (3, 0.01), (10, 0.02)])
def test_equals_closed_form_on_two_classes(steps, step_size, targeted):
    """With two classes the direction is sign(w_other - w_y) wherever the image is."""
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
    model.set_weights([w, np.zeros(2)])
    x, y = batch(shape=(2, 2, 3), classes=2)
    way = np.sign(w[:, 1 - y] - w[:, y]).T.reshape(x.shape) * (-1 if targeted else 1)
    expected = np.clip(x + way * min(steps * step_size, 0.05), 0, 1)
    got = pgd(model, x, y, 0.05, steps=steps, step_size=step_size, random_start=False, targeted=targeted)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("steps, step_size", [(1, 0.01), (3, 0.01), (10, 0.02)])
def test_equals_closed_form_in_l2(steps, step_size, targeted):
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
    model.set_weights([w, np.zeros(2)])
    x, y = batch(shape=(2, 2, 3), classes=2)
    x = 0.3 + 0.4 * x  # no pixel is clipped
    way = (w[:, 1 - y] - w[:, y]).T * (-1 if targeted else 1)
    way = (way / np.linalg.norm(way, axis=1, keepdims=True)).reshape(x.shape)
    settings = dict(steps=steps, step_size=step_size, random_start=False, targeted=targeted, norm="l2")
    np.testing.assert_allclose(pgd(model, x, y, 0.05, **settings), x + way * min(steps * step_size, 0.05), atol=1e-6)


def test_the_worst_of_several_restarts_is_kept(small):
    model, x, y = small
    broken, values = [], []
    for restarts in (1, 2, 6):
        made = pgd(model, x, y, 0.02, steps=2, restarts=restarts)
        broken.append(np.argmax(model(made), axis=1) != y)
        values.append(losses(model, made, y))
    assert not (broken[0] & ~broken[1]).any() and not (broken[1] & ~broken[2]).any()
    for i, j in ((0, 1), (1, 2)):
        still = ~broken[j]
        assert (values[j] >= values[i] - 1e-6)[still].all() and (values[j] > values[i])[still].any()


def test_until_broken_is_no_weaker_and_much_cheaper(small):
    model, x, y = small
    whole, early = Cost(), Cost()
    all_steps = np.argmax(model(pgd(model, x, y, 0.02, steps=20, cost=whole)), axis=1) == y
    stopped = np.argmax(model(pgd(model, x, y, 0.02, steps=20, until_broken=True, cost=early)), axis=1) == y
    assert not (stopped & ~all_steps).any()
    assert early.gradients < 0.7 * whole.gradients


@pytest.mark.parametrize("loss", ["cw", "dlr"])
def test_margins_are_raised(small, loss):
    model, x, y = small
    value = LOSSES[loss]
    before, after = (value(model(z), y).numpy() for z in (x, pgd(model, x, y, 0.02, loss=loss)))
    assert (after > before).mean() > 0.95


def test_one_whole_step_is_fgsm(tiny):
    x, y = batch()
    one = pgd(tiny, x, y, 0.03, steps=1, step_size=0.03, random_start=False)
    assert (np.abs(one - fgsm(tiny, x, y, 0.03)) > 1e-6).mean() < 1e-3


def test_is_stronger_than_fgsm_and_more_steps_are_stronger(tiny):
    x, _ = batch(64)
    y = np.argmax(tiny(x), axis=1)
    few, many = (losses(tiny, pgd(tiny, x, y, 0.03, steps=n, seed=1), y).mean() for n in (2, 10))
    assert losses(tiny, x, y).mean() < losses(tiny, fgsm(tiny, x, y, 0.03), y).mean() < many and few < many


def test_a_target_is_neared(tiny):
    x, y = batch(32)
    assert (losses(tiny, pgd(tiny, x, y, 0.03, targeted=True), y) < losses(tiny, x, y)).mean() > 0.95


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    eps=st.floats(0, 1.5, width=32),
    step_size=st.none() | st.floats(2**-8, 2, width=32),
    steps=st.integers(1, 4),
    seed=st.integers(0, 99),
    targeted=st.booleans(),
    random_start=st.booleans(),
)
def test_ball_and_range(tiny, eps, step_size, steps, seed, targeted, random_start):
    x, y = batch(seed=seed)
    settings = dict(steps=steps, step_size=step_size, seed=seed, targeted=targeted, random_start=random_start)
    adversarial = pgd(tiny, x, y, eps, **settings).numpy()
    assert np.abs(adversarial - x).max() <= eps + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    if eps == 0:
        np.testing.assert_array_equal(adversarial, x)


def test_random_start_follows_the_seed(tiny):
    x, y = batch()
    a, again, b = (pgd(tiny, x, y, 0.05, steps=1, step_size=1e-6, seed=s).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert (a != b).mean() > 0.9
    inside = np.abs(a - x)[(x > 0.05) & (x < 0.95)]  # where no clipping is
    assert abs(inside.mean() - 0.025) < 0.002 and inside.max() > 0.045  # uniform in the ball


def test_several_eps_are_the_single_ones(tiny):
    x, y = batch()
    many = pgd(tiny, x, y, [0.01, 0.3], steps=3).numpy()
    assert many.shape == (2, *x.shape)
    for one, eps in zip(many, [0.01, 0.3]):
        np.testing.assert_array_equal(one, pgd(tiny, x, y, eps, steps=3))


def test_eager_graph_and_xla_agree(tiny):
    x, y = batch(16)
    everyone, numbers = np.ones(16, bool), (0.03, 0.01, 0.0, 0.0, 1.0, 3, False, 0 * x[:1])
    arguments = [tf.constant(v) for v in (x, y, everyone, *numbers)]
    static = dict(loss="ce", norm="linf", until_broken=False, compare=False)
    eager = _descend(tiny, *arguments, **static, compact=True)[0].numpy()
    for jit in (False, True):
        compiled = _compiled_descend(tiny, *arguments, **static, compact=not jit, jit_compile=jit)[0].numpy()
        assert (np.abs(compiled - eager) > 1e-6).mean() < 1e-3


def test_one_trace_for_all_eps_steps_and_batch_sizes(tiny):
    x, y = batch()
    pgd(tiny, x, y, 0.1)
    before = len(_compiled_descend._compiled[tiny])
    for n, eps, steps, size in ((8, 0.1, 3, None), (5, 0.2, 1, 0.1), (1, [0.1, 0.2], 2, 1)):
        pgd(tiny, x[:n], y[:n], eps, steps=steps, step_size=size)
    assert len(_compiled_descend._compiled[tiny]) == before
    assert all(f.experimental_get_tracing_count() == 1 for f in _compiled_descend._compiled[tiny].values())


def test_model_is_left_alone(tiny):
    before = [w.copy() for w in tiny.get_weights()]
    pgd(tiny, *batch(), 0.3)
    for a, b in zip(before, tiny.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change, words",
    [({"steps": 0}, "steps"), ({"step_size": 0.0}, "step_size"), ({"step_size": float("inf")}, "step_size")],
)
def test_bad_arguments_are_named(tiny, change, words):
    with pytest.raises(ValueError, match=words):
        pgd(tiny, *batch(), 0.1, **change)
