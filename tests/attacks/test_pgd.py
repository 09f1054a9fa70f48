import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

import tfadv
from tests.attacks.conftest import batch, is_right, perceptron
from tfadv.attacks import BIM, FGSM, MIFGSM, PGD, Cost, loop, pgd
from tfadv.attacks.losses import LOSSES
from tfadv.runtime import compilation


def all_steps(**settings):
    """PGD that takes all its steps on every image."""
    return PGD(early_stop=False, **settings)


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
    direction = np.sign(w[:, 1 - y] - w[:, y]).T.reshape(x.shape) * (-1 if targeted else 1)
    expected = np.clip(x + direction * min(steps * step_size, 0.05), 0, 1)
    attack = all_steps(steps=steps, step_size=step_size, random_start=False, targeted=targeted)
    np.testing.assert_allclose(attack(model, x, y, 0.05), expected, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("steps, step_size", [(1, 0.01), (3, 0.01), (10, 0.02)])
def test_equals_closed_form_in_l2(steps, step_size, targeted):
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
    model.set_weights([w, np.zeros(2)])
    x, y = batch(shape=(2, 2, 3), classes=2)
    x = 0.3 + 0.4 * x  # no pixel is clipped
    direction = (w[:, 1 - y] - w[:, y]).T * (-1 if targeted else 1)
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).reshape(x.shape)
    settings = dict(steps=steps, step_size=step_size, random_start=False, targeted=targeted, norm="l2")
    np.testing.assert_allclose(
        all_steps(**settings)(model, x, y, 0.05), x + direction * min(steps * step_size, 0.05), atol=1e-6
    )


def test_the_worst_of_several_restarts_is_kept(small):
    model, x, y = small
    wrong, values = [], []
    for restarts in (1, 2, 6):
        adversarial = all_steps(steps=2, restarts=restarts)(model, x, y, 0.02)
        wrong.append(~is_right(model, adversarial, y))
        values.append(losses(model, adversarial, y))
    assert not (wrong[0] & ~wrong[1]).any() and not (wrong[1] & ~wrong[2]).any()
    for i, j in ((0, 1), (1, 2)):
        still = ~wrong[j]
        assert (values[j] >= values[i] - 1e-6)[still].all() and (values[j] > values[i])[still].any()


def test_early_stopping_is_no_weaker_and_much_cheaper(small):
    model, x, y = small
    whole, early = Cost(), Cost()
    right_whole = is_right(model, all_steps(steps=20)(model, x, y, 0.02, cost=whole), y)
    right_early = is_right(model, PGD(steps=20)(model, x, y, 0.02, cost=early), y)
    assert not (right_early & ~right_whole).any()
    assert early.gradients < 0.7 * whole.gradients


@pytest.mark.parametrize("loss", ["cw", "dlr"])
def test_margins_are_raised(small, loss):
    model, x, y = small
    value = LOSSES[loss]
    before, after = (value(model(z), y).numpy() for z in (x, all_steps(loss=loss)(model, x, y, 0.02)))
    assert (after > before).mean() > 0.95


def test_one_whole_step_is_fgsm(tiny):
    x, y = batch()
    one = all_steps(steps=1, step_size=0.03, random_start=False)(tiny, x, y, 0.03)
    assert (np.abs(one - FGSM()(tiny, x, y, 0.03)) > 1e-6).mean() < 1e-3


def test_is_stronger_than_fgsm_and_more_steps_are_stronger(tiny):
    x, _ = batch(64)
    y = np.argmax(tiny(x), axis=1)
    few, many = (losses(tiny, all_steps(steps=n)(tiny, x, y, 0.03, seed=1), y).mean() for n in (2, 10))
    assert losses(tiny, x, y).mean() < losses(tiny, FGSM()(tiny, x, y, 0.03), y).mean() < many and few < many


def test_a_targeted_attack_lowers_the_loss_of_its_target(tiny):
    x, y = batch(32)
    assert (losses(tiny, all_steps(targeted=True)(tiny, x, y, 0.03), y) < losses(tiny, x, y)).mean() > 0.95


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    eps=st.floats(0, 1, width=32),
    step_size=st.none() | st.floats(2**-8, 2, width=32),
    steps=st.integers(1, 4),
    seed=st.integers(0, 99),
    targeted=st.booleans(),
    random_start=st.booleans(),
)
def test_stays_within_eps_and_clip(tiny, eps, step_size, steps, seed, targeted, random_start):
    x, y = batch(seed=seed)
    attack = all_steps(steps=steps, step_size=step_size, targeted=targeted, random_start=random_start)
    adversarial = attack(tiny, x, y, eps, seed=seed).numpy()
    assert np.abs(adversarial - x).max() <= eps + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    if eps == 0:
        np.testing.assert_array_equal(adversarial, x)


def test_random_start_follows_the_seed(tiny):
    x, y = batch()
    a, again, b = (all_steps(steps=1, step_size=1e-6)(tiny, x, y, 0.05, seed=s).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(a, again)
    assert (a != b).mean() > 0.9
    inside = np.abs(a - x)[(x > 0.05) & (x < 0.95)]  # where nothing is clipped
    assert abs(inside.mean() - 0.025) < 0.002 and inside.max() > 0.045  # uniform in the ball


def test_several_eps_are_the_single_ones(tiny):
    x, y = batch()
    many = all_steps(steps=3)(tiny, x, y, [0.01, 0.3]).numpy()
    assert many.shape == (2, *x.shape)
    for one, eps in zip(many, [0.01, 0.3], strict=True):
        np.testing.assert_array_equal(one, all_steps(steps=3)(tiny, x, y, eps))


@pytest.mark.long
def test_eager_graph_and_xla_agree(tiny):
    x, y = batch(16)
    attack, results = all_steps(steps=3, step_size=0.01, random_start=False), []
    tf.config.run_functions_eagerly(True)
    try:
        eager = attack(tiny, x, y, 0.03).numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    for jit_compile in ("false", "true"):
        compilation.configure(jit_compile=jit_compile)
        try:
            results.append(attack(tiny, x, y, 0.03).numpy())
        finally:
            compilation.configure()
    assert all((np.abs(compiled - eager) > 1e-6).mean() < 1e-3 for compiled in results)


def test_one_trace_for_all_eps_steps_and_batch_sizes(tiny):
    x, y = batch()
    all_steps()(tiny, x, y, 0.1)
    before = len(loop._advance._compiled[tiny])
    for n, eps, steps, size in ((8, 0.1, 3, None), (5, 0.2, 1, 0.1), (1, [0.1, 0.2], 2, 1)):
        all_steps(steps=steps, step_size=size)(tiny, x[:n], y[:n], eps)
    assert len(loop._advance._compiled[tiny]) == before
    assert all(f.experimental_get_tracing_count() == 1 for f in loop._advance._compiled[tiny].values())


def test_model_is_left_alone(tiny):
    before = [w.copy() for w in tiny.get_weights()]
    all_steps()(tiny, *batch(), 0.3)
    for a, b in zip(before, tiny.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change, words",
    [({"steps": 0}, "steps"), ({"step_size": 0.0}, "step_size"), ({"step_size": float("inf")}, "step_size")],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        PGD(**change)


def without_cycles(monkeypatch):
    """Searches on after a cycle."""
    monkeypatch.setattr(pgd, "RENEWALS", 0 * pgd.RENEWALS)


@pytest.mark.parametrize("attack", [PGD(steps=60), PGD(steps=60, restarts=3), PGD(steps=60, loss="cw"), BIM(steps=60)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_that_returns_to_an_image_ends_without_changing_a_decision(monkeypatch, attack, seed):
    model = perceptron(5, seed=seed)
    x = np.random.default_rng(seed).uniform(size=(40, 6, 6, 2)).astype("float32")
    y = np.argmax(model(x), axis=1)
    found, plain = Cost(), Cost()
    adversarial = attack(model, x, y, [0.02, 0.05], seed=seed, cost=found).numpy()
    without_cycles(monkeypatch)
    np.testing.assert_array_equal(adversarial, attack(model, x, y, [0.02, 0.05], seed=seed, cost=plain))
    assert found.gradients < 0.6 * plain.gradients
    assert 0 < is_right(model, adversarial[1], y).sum() < is_right(model, adversarial[0], y).sum() < 40


def test_where_steps_have_a_memory_no_cycle_is_looked_for(small, monkeypatch):
    model, x, y = small
    attack, costs = MIFGSM(steps=40, step_size=0.005), [Cost(), Cost()]
    attack(model, x, y, 0.02, cost=costs[0])
    without_cycles(monkeypatch)
    attack(model, x, y, 0.02, cost=costs[1])
    assert costs[0] == costs[1]


def test_an_image_is_compared_with_one_of_a_quarter_of_the_steps_before():
    assert pgd.RENEWALS[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]
    assert (np.diff(pgd.RENEWALS) == np.maximum(1, pgd.RENEWALS[:-1] // 4)).all()


def test_a_random_model_may_answer_otherwise_when_it_is_asked_again(small, monkeypatch):
    model, x, y = small
    attack, costs = PGD(steps=40), [Cost(), Cost()]
    attack(tfadv.expectation(model, samples=1), x, y, 0.02, cost=costs[0])
    without_cycles(monkeypatch)
    attack(tfadv.expectation(model, samples=1), x, y, 0.02, cost=costs[1])
    assert costs[0] == costs[1]
