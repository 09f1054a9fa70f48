import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right
from tfadv.attacks import APGD, PGD, Square, gradient
from tfadv.attacks.losses import margin
from tfadv.attacks.norms import get_norm
from tfadv.attacks.randomness import START, drawn
from tfadv.attacks.squares import bump, bumps, grid, padded_bumps, propose_bumps, propose_linf, side_lengths, stripes


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
    assert robust(Square(norm="l1", steps=400)(masked, x, y, 6.0)) < 0.6


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_uses_no_gradient(small, norm, monkeypatch):
    model, x, y = small
    monkeypatch.setattr(gradient, "logits_and_gradient", None)
    monkeypatch.setattr(tf, "GradientTape", None)
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    adversarial = Square(norm=norm, steps=30)(fresh, x, y, 0.3).numpy()
    assert (adversarial != x).any()


@pytest.mark.parametrize("norm, eps", [("linf", 0.03), ("l2", 0.2), ("l1", 0.8)])
def test_more_queries_and_restarts_are_stronger(small, norm, eps):
    model, x, y = small

    def robust(**settings):
        return is_right(model, Square(norm=norm, **settings)(model, x, y, eps), y)

    few, more, restarted = robust(steps=10), robust(steps=600), robust(steps=10, restarts=5)
    assert more.sum() < few.sum() and restarted.sum() < few.sum() and not (restarted & ~few).any()


@pytest.mark.parametrize("norm, eps", [("linf", 0.03), ("l1", 0.8)])
def test_is_algorithm_1_of_the_paper(small, norm, eps):
    """Query by query: a change that does not raise the margin is dropped; one that makes it positive is the result."""
    model, x, _ = small
    x = x[:20]
    y, steps = np.argmax(model(x), axis=1), 60
    sides = side_lengths(steps, 6, 6, 1 if norm == "linf" else 3)
    pairs, which = padded_bumps(sides, 6, 6, norm)

    def first(generator):
        return eps * stripes(x.shape[1:], generator) if norm == "linf" else grid(x.shape[1:], generator, norm)

    def propose(i):
        query = x, best, tf.constant(eps), tf.constant(sides[i]), numbers[i]
        return propose_linf(*query) if norm == "linf" else propose_bumps(*query, pairs[which[i]], norm)

    def project(z):
        return get_norm(norm).project(z, x, eps, 0.0, 1.0).numpy()

    numbers = tf.random.stateless_uniform((steps, 7), (5, 1))
    best = project(x + drawn(first, 5, START, np.arange(20), np.zeros(20, int)))
    values, expected = margin(model(best), y).numpy(), x.copy()
    expected[values > 0], remaining = best[values > 0], values <= 0
    for i in range(1, steps):
        tried = project(propose(i))
        now = margin(model(tried), y).numpy()
        success = remaining & (now > 0)
        expected[success], remaining = tried[success], remaining & (now <= 0)
        best, values = np.where((now > values)[:, None, None, None], tried, best), np.maximum(now, values)
    assert 3 < remaining.sum() < 17
    np.testing.assert_allclose(Square(norm=norm, steps=steps)(model, x, y, eps, seed=5), expected, atol=1e-5)


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


@pytest.mark.parametrize("norm, order, ring, rim", [("l2", 2, 1 / 4, 1 / 9), ("l1", 1, 1 / 16, 1 / 81)])
def test_bumps(norm, order, ring, rim):
    """The pyramid by hand: in L2, rim 1/9, ring 1/9 + 1/4, centre 1/9 + 1/4 + 1; in L1, of fourth powers."""
    pyramid = bump(5, 5, norm) / bump(5, 5, norm)[0, 0] * rim
    np.testing.assert_allclose(pyramid[2], [rim, rim + ring, rim + ring + 1, rim + ring, rim])
    np.testing.assert_allclose(pyramid, pyramid.T)
    for side in (1, 2, 3, 7):
        upright, transposed = bumps(side, norm)
        assert np.linalg.norm(upright.ravel(), order) == pytest.approx(1) and (upright.T == transposed).all()
        assert (upright[: side // 2] > 0).all() and (upright[side // 2 :] < 0).all()


def test_a_linf_query_changes_one_square_to_the_bounds():
    x = np.full((2, 8, 8, 3), 0.5, "float32")
    best = x + 0.1
    numbers = tf.constant([0.99, 0.0, 0, 0, 0, 0.2, 0.7, 0.2])
    candidate = propose_linf(tf.constant(x), tf.constant(best), 0.1, tf.constant(3), numbers).numpy()
    expected = best.copy()
    expected[:, 5:8, 0:3] = x[:, 5:8, 0:3] + 0.1 * np.array([-1, 1, -1])
    np.testing.assert_allclose(candidate, expected, rtol=1e-6)
    generator = np.random.default_rng(0)
    starts = np.stack([stripes((8, 8, 3), generator) for _ in range(4)])
    assert set(np.unique(starts)) == {-1, 1} and (starts == starts[:, :1]).all() and (starts[0] != starts[1]).any()


def test_an_l2_query_moves_the_budget():
    """The second square becomes zero, the first takes its budget, and the norm of the whole stays."""
    x = np.zeros((1, 12, 12, 2), "float32")
    best = x + 0.5 * grid((12, 12, 2), np.random.default_rng(0), "l2")[None]
    assert np.linalg.norm(best) == pytest.approx(0.5, rel=1e-5)
    numbers = tf.constant([0.0, 0.0, 0.99, 0.99, 0.2, 0.2, 0.7])
    pair = np.pad(bumps(3, "l2"), ((0, 0), (0, 9), (0, 9)))
    candidate = propose_bumps(x, best, tf.constant(0.5), tf.constant(3), numbers, pair, "l2").numpy()
    assert np.linalg.norm(candidate) == pytest.approx(0.5, rel=1e-4)
    assert (candidate[:, 9:, 9:] == 0).all() and (best[:, 8:10, 8:10] != 0).any()
    rest = np.ones((12, 12), bool)
    rest[:3, :3] = rest[9:, 9:] = False
    np.testing.assert_allclose(candidate[:, rest], best[:, rest], rtol=1e-3)


def test_an_l1_query_moves_the_budget_times_the_channels():
    """As in auto-attack: each channel of the first square has twice the unused half plus what its two squares had."""
    x, spent = np.full((1, 12, 12, 2), 0.5, "float32"), np.zeros((1, 12, 12, 2), "float32")
    spent[0, 1, 1], spent[0, 10, 10], spent[0, 5, 5] = (0.1, -0.02), (0.05, 0.03), (0.1, 0.1)
    numbers = tf.constant([0.0, 0.0, 0.99, 0.99, 0.2, 0.2, 0.7])
    pair = np.pad(bumps(3, "l1"), ((0, 0), (0, 9), (0, 9)))
    found = propose_bumps(x, x + spent, tf.constant(0.6), tf.constant(3), numbers, pair, "l1").numpy() - x
    np.testing.assert_allclose(np.abs(found[0, :3, :3]).sum((0, 1)), [2 * (0.1 + 0.15), 2 * (0.1 + 0.05)], rtol=1e-4)
    np.testing.assert_allclose(found[0, 5, 5], [0.1, 0.1], atol=1e-6)
    found[0, :3, :3] = found[0, 5, 5] = 0
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_the_grid_in_l1_has_bumps_of_norm_1():
    grids = grid((13, 13, 2), np.random.default_rng(0), "l1")  # tiles of side 2, from the first pixel on
    assert np.abs(grids).sum() == pytest.approx(36 * 2) and (grids[:12, :12] != 0).all()
    tiles = np.abs(grids[:12, :12]).reshape(6, 2, 6, 2, 2).sum((1, 3))
    np.testing.assert_allclose(tiles, 1, rtol=1e-6)


def test_in_l1_another_scale_of_pixels_changes_nothing(small):
    model, x, y = small
    scaled = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Rescaling(1 / 128), *model.layers])
    attack = Square(norm="l1", steps=30)
    found = attack(scaled, 128 * x, y, 128 * 0.8, clip=(0.0, 128.0)) / 128
    np.testing.assert_allclose(found, attack(model, x, y, 0.8), atol=1e-5)
