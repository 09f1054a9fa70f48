import keras
import numpy as np
import pytest
import tensorflow as tf

import tfadv
from tests.attacks.conftest import is_right
from tests.attacks.test_loop import continued
from tfadv.attacks import Cost, Patch, loop, parse
from tfadv.attacks.losses import margin


@pytest.fixture(scope="module")
def linear():
    """(model, x (6, 5, 7, 2), y, gradient (6, 5, 7, 2) of the margin): two classes, of which a patch changes none."""
    model = keras.Sequential([keras.Input((5, 7, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.random.default_rng(1).normal(size=(70, 2)).astype("float32")
    model.set_weights([w, np.array([0.0, 200.0])])
    x = np.random.default_rng(2).uniform(size=(6, 5, 7, 2)).astype("float32")
    return model, x, np.ones(6, int), np.broadcast_to((w[:, 0] - w[:, 1]).reshape(5, 7, 2), x.shape)


def changed(found, x):
    """For each image that changed, (height, width) of the smallest box around its changes."""
    places = [np.argwhere((a != b).any(axis=-1)) for a, b in zip(found, x)]
    return [tuple(each.max(0) - each.min(0) + 1) for each in places if len(each)]


def test_finds_the_best_place_and_content_on_a_linear_model(linear):
    """There, a pixel is best at 0 or 1, and a place is as good as the sum of what its pixels gain."""
    model, x, y, g = linear
    gain = np.maximum(g * (1 - x), -g * x).sum(axis=-1)
    best = [[image[i : i + 2, j : j + 2].sum() for i in range(4) for j in range(6)] for image in gain]
    attack = Patch(size=4 / 35, steps=250, step_size=0.5)
    found = attack(model, x, y, None).numpy()
    rise = margin(model(found), tf.constant(y)) - margin(model(x), tf.constant(y))
    np.testing.assert_allclose(rise, np.max(best, axis=1), rtol=1e-4)
    assert changed(found, x) == [(2, 2)] * 6 and set(np.unique(found[found != x])) <= {0, 1}


@pytest.mark.parametrize("size, side", [(0.001, 1), (0.1, 2), (0.25, 3), (1.0, 6)])
def test_changes_one_square_and_more_of_it_fools_more(small, size, side):
    model, x, y = small
    attack = Patch(size=size, steps=3)
    found = attack(model, x, y, None).numpy()
    assert attack.settings_for((6, 6, 2))["side"] == side and attack.settings_for((6, 9, 2))["side"] <= 6
    boxes = changed(found, x)
    assert len(boxes) == 38 and max(max(box) for box in boxes) == side  # two are wrong as they are
    assert found.min() >= 0 and found.max() <= 1
    if size == 0.1:
        smaller = Patch(size=0.001, steps=3)(model, x, y, None)
        assert is_right(model, found, y).sum() < is_right(model, smaller, y).sum() < 38


def test_no_result_depends_on_the_batch_and_seeds_differ(small):
    model, x, y = small
    attack = Patch(size=0.1, steps=6, restarts=2)
    whole = attack(model, x, y, None, seed=1).numpy()
    for rows in (np.arange(5), np.arange(5, 40)):
        part = attack(model, x[rows], y[rows], None, seed=1, image_numbers=rows)
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)
    assert (attack(model, x, y, None, seed=2).numpy() != whole).any()


def test_restarts_only_help_and_cost_what_they_do(small):
    model, x, y = small
    one, three = (is_right(model, Patch(size=0.001, steps=5, restarts=n)(model, x, y, None), y) for n in (1, 3))
    assert three.sum() < one.sum() and not (three & ~one).any()
    cost = Cost()
    Patch(size=0.001, steps=5, restarts=2, step_size=1e-6)(model, x, y, None, cost=cost)
    assert cost.gradients <= 38 * 10 and cost.forwards - 40 - 2 * cost.gradients <= 38 * 2


def test_resumed_is_unbroken(small, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    model, x, y = small

    def call(log):
        return Patch(size=0.1, steps=5, restarts=2)(model, x, y, None, batch_size=25, resume=log).numpy()

    resumed, _, interruptions = continued(call, 2)
    np.testing.assert_array_equal(resumed, call(None))
    assert interruptions > 1


def test_result_says_how_large_it_was(small):
    result = tfadv.evaluate(*small, "patch(size=0.1, steps=3)")
    assert result.eps is None and result.settings["side"] == 2 and not (result.robust & ~result.clean_correct).any()
    assert 0 < result.robust_accuracy < result.clean_accuracy and "patch: " in result.summary()
    with pytest.raises(ValueError, match="no eps"):
        parse("patch")(*small, 0.1)
