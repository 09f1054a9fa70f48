import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right, perceptron
from tfadv.attacks import APGD, FMN, PGD, loop
from tfadv.attacks.apgd import Halving, Inputs, State, checkpoint_intervals, checkpoints, l1_schedule
from tfadv.attacks.base import Bounds
from tfadv.attacks.losses import LOSSES


def losses(model, x, y):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)).numpy()


def from_paper(steps):
    """The recursion as the paper writes it: p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max{p_j - p_{j-1} - 0.03, 0.06}."""
    p = [0.0, 0.22]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return sorted({math.ceil(round(v * steps, 9)) for v in p if v <= 1})


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 99, 100, 1000])
def test_checkpoints_are_those_of_the_paper(steps):
    assert checkpoints(steps) == from_paper(steps)


def test_checkpoints_of_a_hundred_steps():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert {int(i): int(v) for i, v in enumerate(checkpoint_intervals(100)) if v} == dict(
        zip([22, 41, 57, 70, 80, 87, 93, 99], [22, 19, 16, 13, 10, 7, 6, 6])
    )


def algorithm_1(model, x, y, start, eps, steps, norm, loss):
    """Algorithm 1 of the paper for one image, with lists of all iterates; returns them and the step sizes."""

    def value_and_gradient(z):
        z = tf.constant(z[None])
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(model(z), tf.constant([y]), None)
        return float(value[0]), tape.gradient(value, z)[0].numpy()

    def project(z):
        if norm == "linf":
            return np.clip(z, np.maximum(x - eps, 0), np.minimum(x + eps, 1))
        size = np.sqrt(((z - x) ** 2).sum())
        return np.clip(x + (z - x) * min(1, eps / max(size, 1e-30)), 0, 1)

    def direction(g):
        return np.sign(g) if norm == "linf" else g / max(np.sqrt((g**2).sum()), 1e-30)

    w, eta, values, sizes, reached = from_paper(steps), 2 * eps, [], [], [start]
    best, best_value, best_gradient = start, -np.inf, None
    value_then, halved_then = -np.inf, False
    before = at = start
    for k in range(steps):
        value, grad = value_and_gradient(at)
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = at, value, grad
        if k in w[1:]:
            last = w[w.index(k) - 1]
            seldom = sum(values[i + 1] > values[i] for i in range(last, k)) < 0.75 * (k - last)
            stuck = not halved_then and best_value == value_then
            halved_then, value_then = seldom or stuck, best_value
            if halved_then:
                eta, at, grad = eta / 2, best, best_gradient
        z = project(at + eta * direction(grad))
        at, before = project(at + 0.75 * (z - at) + 0.25 * (at - before)) if k else z, at
        reached.append(at)
        sizes.append(eta)
    return reached, sizes


def iterate(model, x, start, eps, steps, done, norm, compiled=False):
    """The images after `done` of `steps` steps of the attack on class 0, from given starts."""
    attack, n = APGD(loss="cw", norm=norm), len(x)
    bounds = Bounds(*(tf.constant(v, tf.float32) for v in (eps, 0, 1)), tf.constant(False), tf.constant(-np.inf))
    y, zero = tf.zeros(n, tf.int64), tf.zeros(n)
    lowest, size = zero + tf.float32.min, tf.fill((n, 1, 1, 1), 2 * np.float32(eps))
    x, at = tf.constant(x), tf.constant(start)
    state = State(x, y, y, at, at, at, at, size, lowest, lowest, Halving(lowest, zero, zero > 0))
    inputs = Inputs(bounds, tf.constant(checkpoint_intervals(steps)), tf.ones(steps + 1))
    state = loop.begin(state, tf.ones(n, tf.bool))
    advance = loop._advance if compiled else loop.advance
    state = advance(model, state, tf.range(n), tf.constant(done), inputs, attack=attack, compact=True)
    return loop.finish(model, state, inputs, attack=attack, compact=True)[0]


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_iterates_are_those_of_algorithm_1(norm, eps):
    """On a network so rough that the loss often falls, and so confident in class 0 that no image is done early.

    A larger bias would round the losses, and rounding would decide which of two is higher.
    """
    model = perceptron(5)
    w, b, last, bias = model.get_weights()
    model.set_weights([(8 if norm == "linf" else 3) * w, b, last, bias + [30, 0, 0, 0, 0]])
    x = np.random.default_rng(3).uniform(size=(6, 6, 6, 2)).astype("float32")
    start = np.clip(x + eps / 8 * np.random.default_rng(4).uniform(-1, 1, x.shape), 0, 1).astype("float32")
    steps = 20
    expected = [algorithm_1(model, x[i], 0, start[i], np.float32(eps), steps, norm, LOSSES["cw"]) for i in range(6)]
    halvings = [len(set(sizes)) - 1 for _, sizes in expected]
    assert min(halvings) >= 1 and len(set(halvings)) > 1
    for done in (1, 2, 5, 6, 9, 10, 13, 16, 20):
        images = iterate(model, x, start, eps, steps, done, norm)
        off = [np.abs(iterates[done] - image).max() for (iterates, _), image in zip(expected, images)]
        assert np.median(off) < 1e-3 * eps and sorted(off)[-2] < 1e-2 * eps, done  # rounding may decide one close race


def test_a_step_that_rises_without_a_new_best_is_halved():
    """Condition 2, which a network seldom meets: after a spike at the start the loss rises slowly in all steps."""

    def spike(x, training=False):
        x = tf.reshape(x, (-1, 1))
        return tf.concat([tf.fill(tf.shape(x), 100.0), x + 10 * tf.exp(-tf.square((x - 0.4) / 1e-4))], axis=1)

    x, start = np.full((1, 1, 1, 1), 0.5, "float32"), np.full((1, 1, 1, 1), 0.4, "float32")
    eps, steps = np.float32(0.1), 100
    reached, sizes = algorithm_1(spike, x[0], 0, start[0], eps, steps, "linf", LOSSES["cw"])
    assert sizes[86] == sizes[80] and sizes[87] == sizes[86] / 2
    for done in (70, 87, 88, 91):
        images = iterate(spike, x, start, eps, steps, done, "linf", compiled=True)
        assert float(images[0, 0, 0, 0]) == pytest.approx(float(reached[done][0, 0, 0]), abs=1e-5)


def test_more_steps_restarts_and_targets_are_stronger(small):
    model, x, y = small

    def robust(**settings):
        return np.argmax(model(APGD(**settings)(model, x, y, 0.02)), axis=1) == y

    few, many, restarted = robust(steps=3), robust(steps=40), robust(steps=3, restarts=4)
    assert many.sum() <= few.sum()
    assert not (restarted & ~few).any()  # the first of several starts is that of one
    one, all_ = robust(loss="dlr-t", targets=1, steps=10), robust(loss="dlr-t", steps=10)
    assert not (all_ & ~one).any() and all_.sum() < one.sum()


def test_scaled_logits_defeat_cross_entropy_and_not_dlr(small):
    model, x, y = small
    scaled = keras.Sequential([*model.layers, keras.layers.Rescaling(1e4)])
    plain = (np.argmax(model(APGD(loss="dlr", steps=20)(model, x, y, 0.02)), axis=1) == y).sum()
    for loss in ("dlr", "dlr-t", "cw"):
        scaled_right = (np.argmax(scaled(APGD(loss=loss, steps=20)(scaled, x, y, 0.02)), axis=1) == y).sum()
        assert scaled_right <= plain + 1
    assert (np.argmax(scaled(APGD(loss="ce", steps=20)(scaled, x, y, 0.02)), axis=1) == y).sum() > plain + 5


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.3)])
def test_starts_at_a_random_point_within_eps_and_not_at_the_image(norm, eps):
    """The gradient of this model is zero at the image itself and nowhere else."""
    images = keras.Input((2, 2, 3))
    height = keras.ops.sum(keras.ops.square(images - 0.5), axis=(1, 2, 3))
    logits = keras.ops.stack([0 * height, 100 * height - 1, 0 * height - 9], axis=1)
    model = keras.Model(images, logits)
    x, y = np.full((3, 2, 2, 3), 0.5, np.float32), np.zeros(3, np.int64)
    for loss in ("ce", "dlr"):
        adversarial = APGD(loss=loss, norm=norm, steps=20)(model, x, y, eps)
        assert (model.predict(np.asarray(adversarial), verbose=0).argmax(1) == 1).all()


def test_the_schedule_of_l1():
    radii, intervals = l1_schedule(100)
    assert radii.tolist() == [3] * 30 + [2] * 30 + [1] * 41
    assert np.flatnonzero(intervals == 0).tolist() == [0, 30, 60] and intervals.max() == 1
    radii, intervals = l1_schedule(1000)
    assert np.flatnonzero(intervals).tolist() == [*range(12, 300, 12), *range(312, 600, 12), *range(616, 1000, 16)]
    for steps in (1, 2, 3):
        assert l1_schedule(steps)[0].tolist() == [1] * (steps + 1)
    assert l1_schedule(4)[0].tolist() == [3, 2, 1, 1, 1]


def test_in_l1_reaches_the_best_perturbation_of_a_linear_model(linear_in_l1):
    model, x, y, distances = linear_in_l1
    for i, distance in enumerate(distances):
        inputs = model, x[i : i + 1], y[i : i + 1]
        assert is_right(model, APGD(norm="l1", steps=8)(*inputs, 0.999 * distance), [0]).all()
        assert not is_right(model, APGD(norm="l1")(*inputs, 1.01 * distance), [0]).any()
        assert not is_right(model, PGD(norm="l1", steps=40)(*inputs, 1.4 * distance), [0]).any()


def test_in_l1_is_stronger_than_the_nearest_images_of_fmn(small):
    model, x, y = small
    fmn, apgd = (
        np.array([is_right(model, images, y).sum() for images in attack(model, x, y, [0.3, 0.6, 0.9])])
        for attack in (FMN(norm="l1"), APGD(norm="l1", loss="dlr-t"))
    )
    assert (apgd <= fmn).all() and 0 < apgd[2] < apgd[0] < 30
