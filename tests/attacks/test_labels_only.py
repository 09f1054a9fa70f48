"""HopSkipJump and RayS, which see only the predicted class, on models whose boundary is known."""

import keras
import numpy as np
import pytest

from tests.attacks.conftest import is_right
from tfadv.attacks import Cost, HopSkipJump, RayS
from tfadv.attacks.hopskipjump import LEAST_QUERIES, MOST_HALVINGS
from tfadv.attacks.rays import _block
from tfadv.store.resume import ResumeLog

LARGE = 50.0  # beyond all images


def linear(shape, seed=0):
    """(softmax regression of three classes, its weights (D, 3), images (12, *shape) near grey, their logits)."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(np.prod(shape), 3)).astype("float32")
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)])
    model.set_weights([w])
    x = rng.uniform(0.48, 0.52, (12, *shape)).astype("float32")
    return model, w, x, x.reshape(12, -1) @ w


def distances(w, logits, dual):
    """The exact distance of each image from the nearest boundary; `dual`: the dual norm."""
    found = []
    for z in logits:
        y = z.argmax()
        found.append(min((z[y] - z[k]) / np.linalg.norm(w[:, y] - w[:, k], dual) for k in range(3) if k != y))
    return np.array(found)


def found_distances(adversarial, x, norm):
    difference = (np.asarray(adversarial) - x).reshape(len(x), -1)
    return np.linalg.norm(difference, np.inf if norm == "linf" else 2, axis=1)


@pytest.mark.parametrize(
    "attack, dual, most",
    [
        (HopSkipJump(norm="l2", queries=10000), 2, 1.02),
        (HopSkipJump(queries=10000), 1, 1.02),
        (RayS(queries=2000), 1, 1.05),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_the_distance_is_that_of_the_closed_form(attack, dual, most):
    model, w, x, logits = linear((3, 3, 2))
    y, cost = logits.argmax(axis=1), Cost()
    adversarial = attack(model, x, y, [0.0, LARGE], cost=cost)
    expected = distances(w, logits, dual)
    assert np.median(expected) > 0.005
    ratio = found_distances(adversarial[1], x, getattr(attack, "norm", "linf")) / expected
    assert (ratio > 0.9999).all() and np.median(ratio) < most
    assert not is_right(model, adversarial[1], y).any()
    np.testing.assert_array_equal(adversarial[0], x)  # nothing is within 0
    assert cost.gradients == 0 and 0.9 * attack.queries * 12 < cost.forwards <= attack.queries * 12


@pytest.mark.parametrize("attack", [HopSkipJump(queries=700), HopSkipJump(norm="l2", queries=700), RayS(queries=300)])
def test_one_run_serves_all_eps_and_ends_at_the_smallest(attack):
    model, _, x, logits = linear((4, 4, 1))
    y, cost = logits.argmax(axis=1), Cost()
    sizes = [LARGE, 0.05, 0.3]
    adversarial = attack(model, x, y, sizes, cost=cost)
    for images, eps in zip(adversarial, sizes):
        moved = found_distances(images, x, getattr(attack, "norm", "linf"))
        assert (moved <= eps).all() and (is_right(model, images, y) == (moved == 0)).all()
    assert is_right(model, adversarial[1], y).sum() >= is_right(model, adversarial[2], y).sum()
    easy = Cost()
    attack(model, x, y, LARGE, cost=easy)
    assert easy.forwards < cost.forwards / 3


@pytest.mark.parametrize("attack", [HopSkipJump(queries=500), RayS(queries=150)])
def test_images_do_not_depend_on_their_batch(attack):
    model, _, x, logits = linear((4, 4, 1))
    y = logits.argmax(axis=1)
    y[2] = (y[2] + 1) % 3  # misclassified from the start: no change is needed
    whole = attack(model, x, y, 0.05).numpy()
    np.testing.assert_array_equal(whole[2], x[2])
    assert not is_right(model, whole, y).all()
    np.testing.assert_allclose(attack(model, x, y, 0.05, batch_size=5), whole, atol=1e-6)
    part = attack(model, x[4:9], y[4:9], 0.05, image_numbers=np.arange(4, 9))
    np.testing.assert_allclose(part, whole[4:9], atol=1e-6)


@pytest.mark.parametrize("attack", [HopSkipJump(queries=900), RayS(queries=150)])
def test_a_model_that_never_changes_its_mind(attack):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([np.zeros((16, 3)), np.array([1.0, 0.0, 0.0])])
    x, cost = np.full((2, 4, 4, 1), 0.5, "float32"), Cost()
    np.testing.assert_array_equal(attack(model, x, [0, 0], [0.1, LARGE], cost=cost), np.stack([x, x]))
    assert cost.forwards <= 2 * attack.queries


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("attack", [HopSkipJump(queries=6000), RayS(queries=150)])
def test_interrupted_and_resumed_equals_unbroken(attack, tmp_path, monkeypatch):
    model, _, x, logits = linear((4, 4, 1))
    y, unbroken, resumed = logits.argmax(axis=1), Cost(), Cost()
    expected = attack(model, x, y, [0.0, 1.0], cost=unbroken)
    iterate, calls = type(attack).iterate, []

    def interrupted(self, i, *args):
        calls.append(i)
        if len(calls) == 12:
            raise Interrupted
        return iterate(self, i, *args)

    monkeypatch.setattr(type(attack), "iterate", interrupted)
    with pytest.raises(Interrupted):
        attack(model, x, y, [0.0, 1.0], resume=ResumeLog(tmp_path, interval=0))
    found = attack(model, x, y, [0.0, 1.0], resume=ResumeLog(tmp_path, interval=0), cost=resumed)
    np.testing.assert_array_equal(found, expected)
    assert calls[12] == 8 and resumed == unbroken  # eight iterations were on the disk
    calls.clear()
    again = attack(model, x, y, [0.0, 1.0], resume=ResumeLog(tmp_path, interval=0), cost=Cost())
    np.testing.assert_array_equal(again, expected)
    assert not calls


def test_the_blocks_of_rays_cover_all_pixels_at_each_level():
    d, i = 10, 1
    for blocks in (1, 2, 4, 5, 10):  # of 10, 5, 3, 2 and 1 pixels
        found = [range(d)[_block(i + k, d)] for k in range(blocks)]
        assert [pixel for block in found for pixel in block] == list(range(d)) and all(found)
        i += blocks
    assert _block(i, d) == slice(0, d)  # and again


def test_targeted_reaches_the_class():
    model, w, x, logits = linear((3, 3, 2))
    y, every = logits.argmax(axis=1), np.arange(12)
    target = (y + 1) % 3
    adversarial = HopSkipJump(norm="l2", queries=1500, targeted=True)(model, x, target, LARGE)
    assert is_right(model, adversarial, target).all()
    least = (logits[every, y] - logits[every, target]) / np.linalg.norm(w[:, y] - w[:, target], axis=0)
    ratio = found_distances(adversarial, x, "l2") / least
    assert (ratio > 0.9999).all()


@pytest.mark.parametrize("norm, queries", [("l2", 300), ("linf", 500)])
def test_hopskipjump_spends_what_is_left_on_one_more_estimate(norm, queries):
    model, _, x, logits = linear((4, 4, 1))
    cost = Cost()
    HopSkipJump(norm=norm, queries=queries)(model, x, logits.argmax(axis=1), [0.0, LARGE], cost=cost)
    assert queries - 2 * MOST_HALVINGS - LEAST_QUERIES < cost.forwards / 12 <= queries
