import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import apgd, gradient, pgd, square
from tfadv.attacks.losses import margin
from tfadv.attacks.square import _grid, _propose_l2, _propose_linf, _stripes, bump, bumps, sides


class Quantised(keras.layers.Layer):
    """Eight grey levels: the gradient is 0 wherever there is one."""

    def call(self, x):
        return tf.round(7 * x) / 7


def test_breaks_a_model_without_gradient_where_pgd_fails(small):
    model, x, _ = small
    masked = keras.Sequential([keras.Input(x.shape[1:]), Quantised(), *model.layers])
    y = np.argmax(masked(x), axis=1)

    def robust(made):
        return (np.argmax(masked(made), axis=1) == y).mean()

    assert robust(pgd(masked, x, y, 0.1, random_start=False)) == 1
    assert robust(apgd(masked, x, y, 0.1, steps=20)) > robust(square(masked, x, y, 0.1, steps=400)) + 0.2
    assert robust(square(masked, x, y, 1.5, norm="l2", steps=400)) < 0.6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_takes_no_gradient(small, norm, monkeypatch):
    model, x, y = small
    monkeypatch.setattr(gradient, "logits_and_gradient", None)
    monkeypatch.setattr(tf, "GradientTape", None)
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    made = square(fresh, x, y, 0.3, norm=norm, steps=30).numpy()
    assert (made != x).any()


@pytest.mark.parametrize("norm, eps", [("linf", 0.03), ("l2", 0.2)])
def test_more_queries_and_restarts_are_stronger(small, norm, eps):
    model, x, y = small

    def robust(**settings):
        return np.argmax(model(square(model, x, y, eps, norm=norm, **settings)), axis=1) == y

    few, more, restarted = robust(steps=10), robust(steps=600), robust(steps=10, restarts=5)
    assert more.sum() < few.sum() and restarted.sum() < few.sum() and not (restarted & ~few).any()


def test_is_algorithm_1_of_the_paper(small):
    """Query after query: what does not raise the margin is forgotten, what makes it positive is the answer."""
    model, x, _ = small
    x = x[:20]
    y, eps, steps = np.argmax(model(x), axis=1), 0.03, 60
    numbers = tf.random.stateless_uniform((steps, 7), (5, 1))
    best = np.clip(x + eps * _stripes(1, x.shape[1:], (5, 0)), 0, 1)
    values, found = margin(model(best), y).numpy(), x.copy()
    found[values > 0], open_ = best[values > 0], values <= 0
    for i in range(1, steps):
        tried = _propose_linf(x, best, eps, tf.constant(sides(steps, 6, 6, 1)[i]), numbers[i], None)
        tried = np.clip(tried, np.maximum(x - np.float32(eps), 0), np.minimum(x + np.float32(eps), 1))
        now = margin(model(tried), y).numpy()
        found[open_ & (now > 0)], open_ = tried[open_ & (now > 0)], open_ & (now <= 0)
        best, values = np.where((now > values)[:, None, None, None], tried, best), np.maximum(now, values)
    assert 3 < open_.sum() < 17
    np.testing.assert_allclose(square(model, x, y, eps, steps=steps, seed=5), found, atol=1e-6)


def test_sides_are_those_of_the_schedule():
    """√(0.8 · 32 · 32) = 28.6, and p is halved after 10, 50, 200, ... queries."""
    found = sides(5000, 32, 32, 1)
    assert [found[i] for i in (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001)] == [
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
    assert (np.diff(found) <= 0).all() and sides(5, 4, 4, 1).max() <= 4
    odd = sides(5000, 32, 32, 3)
    assert (odd % 2 == 1).all() and odd.min() == 3


def test_bumps():
    """The pyramid of the paper's equation by hand: rim 1/9, ring 1/9 + 1/4, middle 1/9 + 1/4 + 1."""
    pyramid = bump(5, 5) / bump(5, 5)[0, 0] / 9
    np.testing.assert_allclose(pyramid[2], [1 / 9, 13 / 36, 49 / 36, 13 / 36, 1 / 9])
    np.testing.assert_allclose(pyramid, pyramid.T)
    for side in (1, 2, 3, 7):
        upright, lying = bumps(side)
        assert np.linalg.norm(upright) == pytest.approx(1) and (upright.T == lying).all()
        assert (upright[: side // 2] > 0).all() and (upright[side // 2 :] < 0).all()


def test_a_linf_query_changes_one_square_to_the_bounds():
    x = np.full((2, 8, 8, 3), 0.5, "float32")
    best = x + 0.1
    numbers = tf.constant([0.99, 0.0, 0, 0, 0, 0.2, 0.7, 0.2])
    made = _propose_linf(tf.constant(x), tf.constant(best), 0.1, tf.constant(3), numbers, None).numpy()
    expected = best.copy()
    expected[:, 5:8, 0:3] = x[:, 5:8, 0:3] + 0.1 * np.array([-1, 1, -1])
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    stripes = _stripes(4, (8, 8, 3), (0, 0)).numpy()
    assert set(np.unique(stripes)) == {-1, 1} and (stripes == stripes[:, :1]).all() and (stripes[0] != stripes[1]).any()


def test_an_l2_query_moves_the_budget():
    """The second square is emptied, the first takes what it held, and the whole keeps its size."""
    x = np.zeros((1, 12, 12, 2), "float32")
    best = x + 0.5 * _grid(1, (12, 12, 2), (0, 0)).numpy()
    assert np.linalg.norm(best) == pytest.approx(0.5, rel=1e-5)
    numbers = tf.constant([0.0, 0.0, 0.99, 0.99, 0.2, 0.2, 0.7])
    pair = np.pad(bumps(3), ((0, 0), (0, 9), (0, 9)))
    made = _propose_l2(tf.constant(x), tf.constant(best), 0.5, tf.constant(3), numbers, tf.constant(pair)).numpy()
    assert np.linalg.norm(made) == pytest.approx(0.5, rel=1e-4)
    assert (made[:, 9:, 9:] == 0).all() and (best[:, 8:10, 8:10] != 0).any()
    rest = np.ones((12, 12), bool)
    rest[:3, :3] = rest[9:, 9:] = False
    np.testing.assert_allclose(made[:, rest], best[:, rest], rtol=1e-3)
