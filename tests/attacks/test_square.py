import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right
from tfadv.attacks import APGD, PGD, Square, gradient
from tfadv.attacks.losses import margin
from tfadv.attacks.randomness import START, drawn
from tfadv.attacks.squares import bump, bumps, grid, propose_l2, propose_linf, side_lengths, stripes


class Quantised(keras.layers.Layer):
    """Eight grey levels: the gradient is 0 or undefined."""

    def call(self, x):
        return tf.round(7 * x) / 7


def test_succeeds_on_a_model_without_gradient_where_pgd_fails(small):
    model, x, _ = small
    masked = keras.Sequential([keras.Input(x.shape[1:]), Quantised(), *model.layers])
    y = np.argmax(masked(x), axis=1)

    def robust(adversarial):
        return is_right(masked, adversarial, y).mean()

    assert robust(PGD(random_start=False, early_stop=False)(masked, x, y, 0.1)) == 1
    assert robust(APGD(steps=20)(masked, x, y, 0.1)) > robust(Square(steps=400)(masked, x, y, 0.1)) + 0.2
    assert robust(Square(norm="l2", steps=400)(masked, x, y, 1.5)) < 0.6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uses_no_gradient(small, norm, monkeypatch):
    model, x, y = small
    monkeypatch.setattr(gradient, "logits_and_gradient", None)
    monkeypatch.setattr(tf, "GradientTape", None)
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    adversarial = Square(norm=norm, steps=30)(fresh, x, y, 0.3).numpy()
    assert (adversarial != x).any()


@pytest.mark.parametrize("norm, eps", [("linf", 0.03), ("l2", 0.2)])
def test_more_queries_and_restarts_are_stronger(small, norm, eps):
    model, x, y = small

    def robust(**settings):
        return is_right(model, Square(norm=norm, **settings)(model, x, y, eps), y)

    few, more, restarted = robust(steps=10), robust(steps=600), robust(steps=10, restarts=5)
    assert more.sum() < few.sum() and restarted.sum() < few.sum() and not (restarted & ~few).any()


def test_is_algorithm_1_of_the_paper(small):
    """Query by query: a change that does not raise the margin is dropped; one that makes it positive is the result."""
    model, x, _ = small
    x = x[:20]
    y, eps, steps = np.argmax(model(x), axis=1), 0.03, 60
    numbers = tf.random.stateless_uniform((steps, 7), (5, 1))
    starts = drawn(lambda generator: stripes(x.shape[1:], generator), 5, START, np.arange(20), np.zeros(20, int))
    best = np.clip(x + eps * starts, 0, 1)
    values, expected = margin(model(best), y).numpy(), x.copy()
    expected[values > 0], remaining = best[values > 0], values <= 0
    for i in range(1, steps):
        tried = propose_linf(x, best, eps, tf.constant(side_lengths(steps, 6, 6, 1)[i]), numbers[i], None)
        tried = np.clip(tried, np.maximum(x - np.float32(eps), 0), np.minimum(x + np.float32(eps), 1))
        now = margin(model(tried), y).numpy()
        success = remaining & (now > 0)
        expected[success], remaining = tried[success], remaining & (now <= 0)
        best, values = np.where((now > values)[:, None, None, None], tried, best), np.maximum(now, values)
    assert 3 < remaining.sum() < 17
    np.testing.assert_allclose(Square(steps=steps)(model, x, y, eps, seed=5), expected, atol=1e-6)


def test_sides_are_those_of_the_schedule():
    """√(0.8 · 32 · 32) = 28.6, and p is halved after 10, 50, 200, ... queries."""
    lengths = side_lengths(5000, 32, 32, 1)
    assert [lengths[i] for i in (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001)] == [
        29,
        29,
        20,
        20,
        14,
        14,
        10,
        7,
        5,
        4,
        3,
    ]
    assert (np.diff(lengths) <= 0).all() and side_lengths(5, 4, 4, 1).max() <= 4
    odd = side_lengths(5000, 32, 32, 3)
    assert (odd % 2 == 1).all() and odd.min() == 3


def test_bumps():
    """The pyramid of the paper's equation by hand: rim 1/9, ring 1/9 + 1/4, centre 1/9 + 1/4 + 1."""
    pyramid = bump(5, 5) / bump(5, 5)[0, 0] / 9
    np.testing.assert_allclose(pyramid[2], [1 / 9, 13 / 36, 49 / 36, 13 / 36, 1 / 9])
    np.testing.assert_allclose(pyramid, pyramid.T)
    for side in (1, 2, 3, 7):
        upright, transposed = bumps(side)
        assert np.linalg.norm(upright) == pytest.approx(1) and (upright.T == transposed).all()
        assert (upright[: side // 2] > 0).all() and (upright[side // 2 :] < 0).all()


def test_a_linf_query_changes_one_square_to_the_bounds():
    x = np.full((2, 8, 8, 3), 0.5, "float32")
    best = x + 0.1
    numbers = tf.constant([0.99, 0.0, 0, 0, 0, 0.2, 0.7, 0.2])
    candidate = propose_linf(tf.constant(x), tf.constant(best), 0.1, tf.constant(3), numbers, None).numpy()
    expected = best.copy()
    expected[:, 5:8, 0:3] = x[:, 5:8, 0:3] + 0.1 * np.array([-1, 1, -1])
    np.testing.assert_allclose(candidate, expected, rtol=1e-6)
    generator = np.random.default_rng(0)
    starts = np.stack([stripes((8, 8, 3), generator) for _ in range(4)])
    assert set(np.unique(starts)) == {-1, 1} and (starts == starts[:, :1]).all() and (starts[0] != starts[1]).any()


def test_an_l2_query_moves_the_budget():
    """The second square becomes zero, the first takes its budget, and the norm of the whole stays."""
    x = np.zeros((1, 12, 12, 2), "float32")
    best = x + 0.5 * grid((12, 12, 2), np.random.default_rng(0))[None]
    assert np.linalg.norm(best) == pytest.approx(0.5, rel=1e-5)
    numbers = tf.constant([0.0, 0.0, 0.99, 0.99, 0.2, 0.2, 0.7])
    pair = np.pad(bumps(3), ((0, 0), (0, 9), (0, 9)))
    candidate = propose_l2(tf.constant(x), tf.constant(best), 0.5, tf.constant(3), numbers, tf.constant(pair)).numpy()
    assert np.linalg.norm(candidate) == pytest.approx(0.5, rel=1e-4)
    assert (candidate[:, 9:, 9:] == 0).all() and (best[:, 8:10, 8:10] != 0).any()
    rest = np.ones((12, 12), bool)
    rest[:3, :3] = rest[9:, 9:] = False
    np.testing.assert_allclose(candidate[:, rest], best[:, rest], rtol=1e-3)
