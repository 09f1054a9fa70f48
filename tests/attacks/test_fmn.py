"""FMN, DDN and σ-zero against closed forms on linear models, and what holds for all."""

import itertools

import keras
import numpy as np
import pytest

import tfadv
from tests.attacks.conftest import is_right
from tests.attacks.test_loop import Interrupted, MemoryLog
from tfadv.attacks import DDN, FMN, Cost, SigmaZero, loop

DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
ALL = [
    *(FMN(norm=norm, steps=60) for norm in ("linf", "l2", "l1")),
    DDN(steps=60),
    *(SigmaZero(norm=norm, steps=60) for norm in ("l0", "pixels")),
]


def linear(classes, shape=(6, 6, 2), seed=0):
    """(model, W) whose boundaries are near to grey."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(np.prod(shape), classes)).astype("float32")
    b = (rng.normal(0, 0.3, classes) - 0.5 * w.sum(0)).astype("float32")
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model.set_weights([w, b])
    return model, w


def grey(model, n=24, shape=(6, 6, 2)):
    """Images near to grey, and their classes."""
    x = (0.5 + np.random.default_rng(1).normal(0, 0.02, (n, *shape))).astype("float32")
    return x, np.argmax(model(x), axis=1)


def exact(model, w, x, y, norm):
    """float (N, K): the distance of each class, inf for y, where no bound of a pixel matters."""
    z = model(x).numpy()
    gap = z[np.arange(len(y)), y][:, None] - z
    dual = np.linalg.norm(w[:, y][:, :, None] - w[:, None, :], DUAL[norm], axis=0)
    return np.where(np.eye(w.shape[1], dtype=bool)[y], np.inf, gap / np.maximum(dual, 1e-9))


def label(attack):
    return attack.label


@pytest.mark.parametrize(
    "attack", [*(FMN(norm=norm, steps=200) for norm in ("linf", "l2", "l1")), DDN(steps=200)], ids=label
)
def test_distance_to_a_linear_boundary(attack):
    model, w = linear(2)
    x, y = grey(model)
    expected = exact(model, w, x, y, attack.norm).min(1)
    keep = (expected < 0.3) & (expected > 1e-3)  # farther ones reach 0 or 1 in L1; the nearest are a few roundings away
    found = tfadv.evaluate(model, x[keep], y[keep], attack).distances
    assert keep.sum() > 15
    np.testing.assert_allclose(found, expected[keep], rtol=0.01)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_goes_to_the_nearest_of_several_classes(norm):
    model, w = linear(5)
    x, y = grey(model)
    distances = exact(model, w, x, y, norm)
    runner_up = np.argsort(model(x).numpy(), axis=1)[:, -2]
    keep = (distances.min(1) < 0.3) & (distances.min(1) > 1e-3)
    assert keep.sum() > 10 and (distances.argmin(1) != runner_up)[keep].any()
    found = tfadv.evaluate(model, x[keep], y[keep], FMN(norm=norm, steps=200)).distances
    np.testing.assert_allclose(found, distances.min(1)[keep], rtol=0.01)


def test_fewest_values_by_brute_force():
    """On 8 values, all sets of values, each moved to 0 or 1 in the direction that helps."""
    model, _ = linear(2, (2, 2, 2))
    rng = np.random.default_rng(0)
    w = (rng.choice([-1, 1], (8, 1)) * rng.uniform(0.6, 1, (8, 1)) * [1, -1]).astype("float32")
    model.set_weights([w, -0.5 * w.sum(0)])
    sure = np.linspace(0.02, 0.48, 30)[:, None, None, None]
    x = (0.5 + sure * np.sign(w[:, 0] - w[:, 1]).reshape(2, 2, 2)).astype("float32")
    y = np.argmax(model(x), axis=1)
    ahead = (w[:, 0] - w[:, 1])[None] * np.where(y == 0, 1, -1)[:, None]  # gradient of the margin of y
    flat, margin = x.reshape(30, -1), np.abs(np.diff(model(x), axis=1))[:, 0]
    gain = np.where(ahead > 0, flat, 1 - flat) * np.abs(ahead)
    sets = [list(s) for k in range(1, 9) for s in itertools.combinations(range(8), k)]
    fewest = [next((len(s) for s in sets if gain[i, s].sum() > margin[i]), np.inf) for i in range(30)]
    found = tfadv.evaluate(model, x, y, SigmaZero(steps=300)).distances
    assert set(fewest) == {1, 2, 3, 4}
    assert (found >= fewest).all() and (found == fewest).mean() >= 0.9


def test_fewest_pixels_of_a_linear_model():
    """There, the gains of pixels add up, each the sum of those of its values."""
    model, w = linear(2, (3, 3, 3))
    model.set_weights([w, -0.5 * w.sum(0)])
    sure = np.linspace(0.02, 0.3, 40)[:, None, None, None]
    x = (0.5 + sure * np.sign(w[:, 0] - w[:, 1]).reshape(3, 3, 3)).astype("float32")
    y = np.argmax(model(x), axis=1)
    ahead = (w[:, 0] - w[:, 1])[None] * np.where(y == 0, 1, -1)[:, None]
    gains = np.where(ahead > 0, x.reshape(40, -1), 1 - x.reshape(40, -1)) * np.abs(ahead)
    pixels = np.sort(gains.reshape(40, 9, 3).sum(axis=2), axis=1)[:, ::-1].cumsum(axis=1)
    margin = np.abs(np.diff(model(x), axis=1))
    fewest = 1 + (pixels <= margin).sum(axis=1)
    found = tfadv.evaluate(model, x, y, SigmaZero(norm="pixels", steps=300)).distances
    assert len(set(fewest)) > 1 and (found >= fewest).all() and (found <= fewest + 1).all()
    assert (found == fewest).mean() >= 0.8


@pytest.mark.parametrize("attack", ALL, ids=label)
def test_more_steps_are_not_further_by_more_than_a_little(small, attack):
    model, x, y = small
    few, many = (tfadv.evaluate(model, x, y, type(attack)(norm=attack.norm, steps=n)).distances for n in (25, 100))
    assert np.isfinite(many).all() and (many <= 1.1 * few + (attack.norm in ("l0", "pixels"))).all()
    assert np.median(many) <= np.median(few)


@pytest.mark.parametrize("attack", ALL, ids=label)
def test_stays_in_the_box_and_is_adversarial_at_its_distance(small, attack):
    model, x, y = small
    x = np.where(np.random.default_rng(3).random(x.shape) < 0.5, np.round(x), x).astype("float32")
    result = tfadv.evaluate(model, x, y, attack, keep_images=True)
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    right = is_right(model, x, y)
    assert (result.distances[~right] == 0).all() and (result.distances[right] > 0).all()
    assert right.sum() > 10 and not is_right(model, result.adversarial, y).any()
    moved = result.adversarial - x
    if attack.norm == "pixels":
        moved = moved.any(axis=3)
    moved = np.linalg.norm(moved.reshape(len(x), -1), 0 if attack.norm == "pixels" else float(attack.norm[1:]), axis=1)
    np.testing.assert_allclose(moved, result.distances, rtol=1e-5)


@pytest.mark.parametrize("attack", ALL, ids=label)
def test_a_model_without_gradient_is_not_fooled(attack):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([np.zeros((16, 3)), np.array([1.0, 0.0, 0.0])])
    x = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype("float32")
    np.testing.assert_array_equal(attack(model, x, np.zeros(5, int), None), x)
    np.testing.assert_array_equal(tfadv.evaluate(model, x, [0, 0, 0, 1, 2], attack).distances, [np.inf] * 3 + [0] * 2)


@pytest.mark.parametrize("attack", ALL, ids=label)
def test_distances_do_not_depend_on_the_batch(small, attack):
    model, x, y = small
    here, elsewhere = (attack(model, x[rows], y[rows], None)[:10] for rows in (np.r_[:20], np.r_[:10, 30:40]))
    np.testing.assert_array_equal(here, elsewhere)


@pytest.mark.parametrize(
    "attack, size",
    [
        *(
            (FMN(norm="linf", targeted=True), 0.3),
            (FMN(norm="l2", targeted=True), 2),
            (FMN(norm="l1", targeted=True), 12),
        ),
        *((DDN(targeted=True), 2), (SigmaZero(steps=200, targeted=True), 40)),
        (SigmaZero(norm="pixels", steps=200, targeted=True), 20),
    ],
)
def test_a_target_is_reached(small, attack, size):
    model, x, y = small
    target = (y + 1) % 5
    adversarial = attack(model, x, target, size).numpy()
    reached = is_right(model, adversarial, target)
    assert reached.sum() > 30
    np.testing.assert_array_equal(adversarial[~reached], x[~reached])


def test_steps_are_counted(small):
    """40 clean passes; a gradient per step and one pass after the last for each of the 38 that are right.

    FMN takes a gradient for each of the four other classes first.
    """
    for attack, first in ((FMN(steps=7), 4), (DDN(steps=7), 0), (SigmaZero(steps=7), 0)):
        cost = Cost()
        attack(*small, None, cost=cost)
        assert (cost.gradients, cost.forwards) == (38 * (first + 7), 40 + 38)


def test_the_curve_is_not_below_autoattack(small):
    model, x, y = small
    sizes = (0.005, 0.01, 0.02, 0.04)
    result = tfadv.evaluate(model, x, y, "fmn")
    auto = tfadv.evaluate(model, x, y, "autoattack(steps=30, queries=100)", sizes).robust_accuracy
    curve = [result.accuracy_at(size) for size in sizes]
    assert all(0 <= above - below <= 0.05 for above, below in zip(curve, auto, strict=True))
    assert 0 < curve[-1] < curve[0] < 1


@pytest.mark.parametrize("attack", [FMN(steps=20), DDN(steps=20), SigmaZero(steps=20)], ids=label)
def test_resumed_is_unbroken(small, attack, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)  # one step each
    unbroken, resumed, log = Cost(), Cost(), MemoryLog(stop_after=7)
    whole = attack(*small, None, cost=unbroken)
    with pytest.raises(Interrupted):
        attack(*small, None, resume=log)
    assert log.state[0] == 7
    again = MemoryLog(log.units, log.state)
    np.testing.assert_array_equal(attack(*small, None, resume=again, cost=resumed), whole)
    assert again.chunks == 13 and resumed == unbroken
