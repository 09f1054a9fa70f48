import keras
import numpy as np
import pytest

from tfadv.attacks import Cost, fab


def linear(classes, seed=0):
    """(model, W, b) on images (3, 3, 2)."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(18, classes)).astype("float32")
    b = (rng.normal(0, 0.05, classes) - 0.5 * w.sum(0)).astype("float32")  # the boundaries pass near to grey
    model = keras.Sequential([keras.Input((3, 3, 2)), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model.set_weights([w, b])
    return model, w, b


def distances(x, y, w, b, norm):
    """Exact distance to the nearest other class where no bound of a pixel is in the way."""
    z = x.reshape(len(x), -1) @ w + b
    gap = z[np.arange(len(y)), y][:, None] - z
    across = np.linalg.norm(w[:, y][:, :, None] - w[:, None, :], 1 if norm == "linf" else 2, axis=0)
    return np.where(np.eye(w.shape[1], dtype=bool)[y], np.inf, gap / np.maximum(across, 1e-9)).min(1)


def size(d, norm):
    return np.linalg.norm(d.reshape(len(d), -1), np.inf if norm == "linf" else 2, axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_finds_the_nearest_on_a_linear_model(classes, norm):
    model, w, b = linear(classes)
    x = (0.5 + np.random.default_rng(1).normal(0, 0.03, (24, 3, 3, 2))).astype("float32")
    y = np.argmax(model(x), axis=1)
    exact = distances(x, y, w, b, norm)
    # The search ends within the smallest eps, which here it never comes to.
    made = fab(model, x, y, [0.98 * exact.min(), 10.0], norm=norm, steps=20).numpy()[1]
    assert (np.argmax(model(made), axis=1) != y).all()
    assert (size(made - x, norm) <= 1.25 * exact).all() and (size(made - x, norm) >= 0.999 * exact).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps, share", [(1, 1.05), (2, 1.00521)])
def test_first_steps_by_hand(norm, steps, share):
    """At the distance D, a step of 1.05 D overshoots the boundary; from 0.9 of that, 0.945 D, the next one aims at
    0.945 + 1.05 · 0.055 = 1.00275 D, mixed with 1.05 D by the share 0.055 / 1.055."""
    model, w, b = linear(2)
    x = (0.5 + np.random.default_rng(1).normal(0, 0.03, (24, 3, 3, 2))).astype("float32")
    y = np.argmax(model(x), axis=1)
    exact = distances(x, y, w, b, norm)
    made = fab(model, x, y, [0.1 * exact.min(), 10.0], norm=norm, steps=steps).numpy()[1]
    np.testing.assert_allclose(size(made - x, norm), share * exact, rtol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_goes_to_that_class(norm):
    model, w, b = linear(2)
    x = (0.5 + np.random.default_rng(1).normal(0, 0.03, (24, 3, 3, 2))).astype("float32")
    y = np.argmax(model(x), axis=1)
    exact = distances(x, y, w, b, norm)
    made = fab(model, x, 1 - y, [0.98 * exact.min(), 10.0], norm=norm, steps=20, targeted=True).numpy()[1]
    np.testing.assert_array_equal(np.argmax(model(made), axis=1), 1 - y)
    assert (size(made - x, norm) <= 1.25 * exact).all()


def test_only_what_is_within_eps_is_kept(small):
    model, x, y = small
    eps = [0.005, 0.01, 0.02, 0.04]
    for e, made in zip(eps, fab(model, x, y, eps, steps=15).numpy()):
        moved = (made != x).any((1, 2, 3))
        np.testing.assert_array_equal(moved[:-2], (np.argmax(model(made), axis=1) != y)[:-2])  # the last two are wrong
        assert 0 < moved.sum() < 39 and size(made - x, "linf").max() <= e


def test_one_run_serves_all_eps(small):
    model, x, y = small
    several, smallest = Cost(), Cost()
    many = fab(model, x, y, [0.02, 0.01], steps=15, cost=several)
    one = fab(model, x, y, 0.01, steps=15, cost=smallest)
    assert several == smallest
    np.testing.assert_array_equal(many[1], one)


def test_further_restarts_never_do_worse(small):
    model, x, y = small
    once, again = (np.argmax(model(fab(model, x, y, 0.02, steps=4, restarts=r)), axis=1) != y for r in (1, 3))
    assert not (once & ~again).any()
