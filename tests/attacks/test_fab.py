import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right, perceptron
from tfadv.attacks import FAB, PGD, Cost
from tfadv.attacks.fab import boundary, nearest_boundary

NORMS, DUAL = {"linf": np.inf, "l2": 2, "l1": 1}, {"linf": 1, "l2": 2, "l1": np.inf}  # as numpy has them


def linear(classes, seed=0):
    """(model, W, b) on images (3, 3, 2)."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(18, classes)).astype("float32")
    b = (rng.normal(0, 0.05, classes) - 0.5 * w.sum(0)).astype("float32")  # the boundaries pass near to grey
    model = keras.Sequential([keras.Input((3, 3, 2)), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model.set_weights([w, b])
    return model, w, b


def grey(model, n=24):
    """Images near to grey, where no bound of a pixel matters, and their classes."""
    x = (0.5 + np.random.default_rng(1).normal(0, 0.03, (n, 3, 3, 2))).astype("float32")
    return x, np.argmax(model(x), axis=1)


def distances(x, y, w, b, norm):
    """Exact distance to each other class, inf for y, where no bound of a pixel matters: |f| / ||w|| (dual norm)."""
    z = x.reshape(len(x), -1) @ w + b
    gap = z[np.arange(len(y)), y][:, None] - z
    dual = np.linalg.norm(w[:, y][:, :, None] - w[:, None, :], DUAL[norm], axis=0)
    return np.where(np.eye(w.shape[1], dtype=bool)[y], np.inf, gap / np.maximum(dual, 1e-9))


def size(d, norm):
    return np.linalg.norm(d.reshape(len(d), -1), NORMS[norm], axis=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("targets", [0, 9])
def test_finds_the_nearest_boundary_of_a_linear_model(classes, norm, targets):
    model, w, b = linear(classes)
    x, y = grey(model)
    exact = distances(x, y, w, b, norm).min(1)
    # The attack ends within the smallest eps, which it never reaches here.
    adversarial = FAB(norm=norm, steps=20, targets=targets)(model, x, y, [0.98 * exact.min(), 10.0]).numpy()[1]
    assert not is_right(model, adversarial, y).any()
    found = size(adversarial - x, norm)
    assert (found <= 1.25 * exact).all() and (found >= 0.999 * exact).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps, ratio", [(1, 1.05), (2, 1.00521)])
@pytest.mark.parametrize("targets", [0, 9])
def test_first_steps_by_hand(norm, steps, ratio, targets):
    """At the distance D, a step of 1.05 D overshoots the boundary; from 0.9 of that, 0.945 D, the next one goes to
    0.945 + 1.05 · 0.055 = 1.00275 D, mixed with 1.05 D with weight 0.055 / 1.055."""
    model, w, b = linear(2)
    x, y = grey(model)
    exact = distances(x, y, w, b, norm).min(1)
    attack = FAB(norm=norm, steps=steps, targets=targets)
    adversarial = attack(model, x, y, [0.1 * exact.min(), 10.0]).numpy()[1]
    rounding = 5e-7  # of pixels in float32, which decides the last digits of the smallest distances, 2e-4
    np.testing.assert_allclose(size(adversarial - x, norm), ratio * exact, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("targets", [0, 9])
def test_in_l1_finds_the_nearest_image_in_the_box(linear_in_l1, targets):
    model, x, y, exact = linear_in_l1
    adversarial = FAB(norm="l1", steps=30, targets=targets)(model, x, y, [0.9 * exact.min(), 100.0]).numpy()[1]
    assert not is_right(model, adversarial, y).any()
    np.testing.assert_allclose(size(adversarial - x, "l1"), exact, rtol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_untargeted_goes_to_the_nearest_of_all_boundaries_in_one_step(norm):
    """The first step ends 1.05 times as far as the nearest of five hyperplanes, across that one."""
    model, w, b = linear(6)
    x, y = grey(model)
    exact = distances(x, y, w, b, norm)
    assert len(set(exact.argmin(1))) > 2
    adversarial = FAB(norm=norm, steps=1)(model, x, y, [1e-6, 10.0]).numpy()[1]
    np.testing.assert_allclose(size(adversarial - x, norm), 1.05 * exact.min(1), rtol=1e-3)
    predicted = np.argmax(model(adversarial), axis=1)
    assert (predicted == exact.argmin(1)).mean() > 0.7 and (predicted != y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_nearest_boundary_is_the_nearest_of_the_single_ones(norm):
    """By brute force on a network: each class's boundary, one after the other."""
    model, x = perceptron(5), tf.constant(np.random.default_rng(0).uniform(size=(30, 6, 6, 2)).astype("float32"))
    y = tf.argmax(model(x), axis=1)
    each = []
    for k in range(1, 5):
        f, w = boundary(model, x, y, (y + k) % 5)
        dual = np.linalg.norm(w.numpy().reshape(30, -1), DUAL[norm], axis=1)
        each.append((np.abs(f) / dual, f.numpy(), w.numpy()))
    nearest = np.argmin([distance for distance, *_ in each], axis=0)
    assert len(set(nearest)) == 4
    for function in (nearest_boundary, tf.function(nearest_boundary)):
        f, w = function(model, x, y, norm)
        np.testing.assert_allclose(f, [each[k][1][n] for n, k in enumerate(nearest)], rtol=1e-4)
        np.testing.assert_allclose(w, [each[k][2][n] for n, k in enumerate(nearest)], atol=1e-5)


@pytest.mark.parametrize(
    "norm, sizes",
    [
        ("linf", (0.01, 0.02, 0.04)),
        pytest.param("l2", (0.05, 0.1, 0.2), marks=pytest.mark.long),
        pytest.param("l1", (0.2, 0.4, 0.8), marks=pytest.mark.long),
    ],
)
def test_untargeted_is_about_as_strong_as_targeted_and_cheaper_in_rounds(small, norm, sizes):
    model, x, y = small
    right = {
        targets: [is_right(model, z, y).sum() for z in FAB(norm=norm, steps=30, targets=targets)(model, x, y, sizes)]
        for targets in (0, 9)
    }
    assert all(abs(a - b) <= 3 for a, b in zip(right[0], right[9], strict=True))
    pgd = [is_right(model, z, y).sum() for z in PGD(norm=norm, steps=30)(model, x, y, sizes)]
    assert all(a <= b + 2 for a, b in zip(right[0], pgd, strict=True))


@pytest.mark.long
def test_untargeted_under_xla(small, xla):
    model, x, y = small
    fixed = is_right(model, FAB(steps=8)(model, x, y, 0.02), y)
    assert 5 < fixed.sum() < 38


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 9])
def test_targeted_reaches_that_class(norm, targets):
    model, w, b = linear(2)
    x, y = grey(model)
    exact = distances(x, y, w, b, norm).min(1)
    attack = FAB(norm=norm, steps=20, targeted=True, targets=targets)
    adversarial = attack(model, x, 1 - y, [0.98 * exact.min(), 10.0]).numpy()[1]
    np.testing.assert_array_equal(np.argmax(model(adversarial), axis=1), 1 - y)
    assert (size(adversarial - x, norm) <= 1.25 * exact).all()


@pytest.mark.parametrize("targets", [0, 9])
def test_only_what_is_within_eps_is_returned(small, targets):
    model, x, y = small
    eps = [0.005, 0.01, 0.02, 0.04]
    for e, adversarial in zip(eps, FAB(steps=15, targets=targets)(model, x, y, eps).numpy(), strict=True):
        moved = (adversarial != x).any((1, 2, 3))
        np.testing.assert_array_equal(moved[:-2], ~is_right(model, adversarial, y)[:-2])  # the last two are wrong
        assert 0 < moved.sum() < 39 and size(adversarial - x, "linf").max() <= e


@pytest.mark.parametrize("targets", [0, 9])
def test_one_run_serves_all_eps(small, targets):
    model, x, y = small
    several, smallest = Cost(), Cost()
    many = FAB(steps=15, targets=targets)(model, x, y, [0.02, 0.01], cost=several)
    one = FAB(steps=15, targets=targets)(model, x, y, 0.01, cost=smallest)
    assert several == smallest
    np.testing.assert_array_equal(many[1], one)


@pytest.mark.parametrize("targets", [0, 9])
def test_further_restarts_are_never_weaker(small, targets):
    model, x, y = small
    once, again = (~is_right(model, FAB(steps=4, restarts=r, targets=targets)(model, x, y, 0.02), y) for r in (1, 3))
    assert not (once & ~again).any()
