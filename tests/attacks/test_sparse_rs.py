"""Sparse-RS against closed forms, and its steps."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.attacks.conftest import is_right, perceptron
from tests.attacks.test_loop import continued
from tfadv.attacks import SparseRS, loop, parse
from tfadv.attacks.base import Bounds, Images
from tfadv.attacks.losses import margin
from tfadv.attacks.sparse_rs import moved_pixels


def bounds(eps, low=0.0, high=1.0):
    return Bounds(*map(tf.constant, (float(eps), low, high, False, -np.inf)))


def test_one_pixel_by_brute_force():
    """Every pixel, in every color: enough queries find what there is, and nothing else."""
    model, x = perceptron(3), np.random.default_rng(0).uniform(size=(400, 6, 6, 2)).astype("float32")
    sure = np.argsort(np.diff(np.sort(model(x), axis=1)[:, -2:])[:, 0])
    x = x[sure[-40:]]
    y = np.argmax(model(x), axis=1)
    fooled = np.zeros(40, bool)
    for row, column in np.ndindex(6, 6):
        for color in itertools.product((0, 1), repeat=2):
            changed = x.copy()
            changed[:, row, column] = color
            fooled |= ~is_right(model, changed, y)
    found = tfadv.evaluate(model, x, y, "sparse-rs(steps=800)", eps=1).robust[0]
    np.testing.assert_array_equal(found, ~fooled)
    assert 5 < found.sum() < 35


def test_the_best_pixels_of_a_linear_model():
    """There, the gains of pixels add up, so that the two best ones are best; a random search may miss them."""
    rng = np.random.default_rng(1)
    model = keras.Sequential([keras.Input((5, 4, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([rng.normal(size=(40, 2)).astype("float32"), np.zeros(2, "float32")])
    x = rng.uniform(size=(300, 5, 4, 2)).astype("float32")
    y = np.argmax(model(x), axis=1)
    w = np.diff(model.weights[0].numpy(), axis=1)[:, 0].reshape(5, 4, 2) * np.where(y == 0, 1, -1)[:, None, None, None]
    gain = np.maximum(w * (1 - x), -w * x).sum(axis=3).reshape(300, -1)
    rise = np.sort(gain, axis=1)[:, -2:].sum(axis=1) + margin(model(x), tf.constant(y)).numpy()
    near = np.argsort(np.abs(rise))[:40]
    robust = tfadv.evaluate(model, x[near], y[near], "sparse-rs(steps=600)", eps=2).robust[0]
    assert not (~robust & (rise[near] < 0)).any() and (robust == (rise[near] < 0)).mean() >= 0.95
    assert 5 < robust.sum() < 35


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-0.5, 2.0)])
def test_a_step_moves_some_of_the_pixels(small, low, high):
    """All of which have a color at the limits in both channels, and none that of the image."""
    model, x, y = small
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.5, low, x).astype("float32")
    attack, images = SparseRS(steps=12, alpha_init=0.8), Images(tf.constant(x), tf.constant(y), tf.range(40))
    state = attack.start(images, np.zeros(40, int), bounds(5, low, high), seed=3)
    inputs = attack.inputs(bounds(5, low, high), (6, 6, 2), (), 0)
    assert inputs.moved[0] == 4 and inputs.moved[11] == 1
    for i in range(12):
        before = state
        state, image, _, _ = attack.step(model, inputs, tf.constant(i), state)
        for each in (image, state.best):
            differs = (each != x).numpy().any(axis=3)
            assert (differs.sum(axis=(1, 2)) == 5).all() and set(np.unique(each[differs])) == {low, high}
        np.testing.assert_array_equal((state.best != x).numpy().any(axis=3).reshape(40, -1), state.changed)
        moved = (image != before.best).numpy().any(axis=3).sum(axis=(1, 2))
        assert (moved == (0 if i == 0 else 2 * int(inputs.moved[i]))).all()
        assert (margin(model(state.best), tf.constant(y)).numpy() >= before.objective.numpy() - 1e-5).all()
    assert len(np.unique(state.changed, axis=0)) > 30  # each image has pixels of its own


def test_numbers_of_pixels_are_those_of_the_schedule():
    """0.3 of 100 pixels, halved after the first query, a quarter after 50, a twentieth after 8,000 of 10,000."""
    moved = moved_pixels(10000, 100, 0.3)
    assert [moved[i] for i in (0, 1, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)] == [
        *(30, 15, 15, 7, 6, 5, 3, 3, 2, 2, 1),
    ]
    np.testing.assert_array_equal(moved_pixels(100, 100, 0.3), moved[::100])
    assert moved_pixels(5, 2, 0.3).tolist() == [1] * 5


def test_eps_is_a_number_of_pixels(small):
    model, x, y = small
    for wrong in (0.03, [1, 2.5]):
        with pytest.raises(ValueError, match="a number of pixels: a whole number such as 24"):
            tfadv.evaluate(model, x, y, "sparse-rs", eps=wrong)
    for norm, unit in (("pixels", "pixels"), ("l0", "values")):
        with pytest.raises(ValueError, match=f"a number of {unit}: a whole number such as 24, not 0.03"):
            tfadv.evaluate(model, x, y, f"sigma-zero(norm={norm})", eps=0.03)
    with pytest.raises(ValueError, match="at most 36, the pixels of an image; got 37"):
        parse("sparse-rs")(model, x, y, 37)
    result = tfadv.evaluate(model, x, y, "sparse-rs(steps=20)", eps=[0, 1, 36], keep_images=True)
    counts = (result.adversarial != x).any(axis=-1).sum(axis=(2, 3)).max(axis=1)
    assert counts[0] == 0 and counts[1] == 1 and counts[2] > 1 and "sparse-rs, eps 36 pixels: " in result.summary()


def test_more_queries_and_restarts_are_stronger_and_a_target_is_reached(small):
    model, x, y = small

    def robust(**settings):
        return is_right(model, SparseRS(**settings)(model, x, y, 1), y)

    few, more, restarted = robust(steps=10), robust(steps=300), robust(steps=10, restarts=5)
    assert more.sum() < few.sum() and restarted.sum() < few.sum() and not (restarted & ~few).any()
    target = (y + 1) % 5
    adversarial = SparseRS(steps=100, targeted=True)(model, x, target, 6).numpy()
    reached = is_right(model, adversarial, target)
    assert reached.sum() > 30
    np.testing.assert_array_equal(adversarial[~reached], x[~reached])


def test_resumed_is_unbroken(small, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    model, x, y = small

    def call(log):
        return SparseRS(steps=6, restarts=2)(model, x, y, 1, batch_size=25, resume=log).numpy()

    resumed, _, interruptions = continued(call, 2)
    np.testing.assert_array_equal(resumed, call(None))
    assert interruptions > 1


def test_where_few_other_pixels_are_left_some_get_new_colors(small):
    """With as many as there are, the search would otherwise stay at its start."""
    model, x, y = small
    attack, images = SparseRS(steps=4, alpha_init=0.5), Images(tf.constant(x), tf.constant(y), tf.range(40))
    for number, left in ((36, 0), (35, 1)):
        state = attack.start(images, np.zeros(40, int), bounds(number), seed=3)
        inputs = attack.inputs(bounds(number), (6, 6, 2), (), 0)
        for i in range(4):
            before = state
            state, image, _, _ = attack.step(model, inputs, tf.constant(i), state)
            assert ((image != x).numpy().any(axis=3).sum(axis=(1, 2)) == number).all()
            moved = (image != before.best).numpy().any(axis=3).sum(axis=(1, 2))
            assert (moved <= (int(inputs.moved[i]) + left if i else 0)).all() and (moved.max() > 0) == (i > 0)
