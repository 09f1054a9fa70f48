import math

import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import apgd
from tfadv.attacks.apgd import _attempt, _intervals, checkpoints
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
def test_checkpoints_are_the_papers(steps):
    assert checkpoints(steps) == from_paper(steps)


def test_checkpoints_of_a_hundred_steps():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert {int(i): int(v) for i, v in enumerate(_intervals(100)) if v} == dict(
        zip([22, 41, 57, 70, 80, 87, 93, 99], [22, 19, 16, 13, 10, 7, 6, 6])
    )


def algorithm(model, x, y, start, eps, steps, norm, loss):
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

    def way(g):
        return np.sign(g) if norm == "linf" else g / np.sqrt((g**2).sum())

    w, eta, iterates, values, sizes = from_paper(steps), 2 * eps, [start], [], []
    best, best_value, best_gradient = start, -np.inf, None
    value_then, halved_then = -np.inf, False
    for k in range(steps):
        here = iterates[-1]
        value, grad = value_and_gradient(here)
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = here, value, grad
        before = iterates[-2] if k else here
        if k in w[1:]:
            last = w[w.index(k) - 1]
            seldom = sum(values[i + 1] > values[i] for i in range(last, k)) < 0.75 * (k - last)
            stuck = not halved_then and best_value == value_then
            halved_then, value_then = seldom or stuck, best_value
            if halved_then:
                eta, here, grad = eta / 2, best, best_gradient
        z = project(here + eta * way(grad))
        iterates.append(project(here + 0.75 * (z - here) + 0.25 * (here - before)) if k else z)
        sizes.append(eta)
    return iterates, sizes


@pytest.mark.parametrize("norm, eps", [("linf", 0.02), ("l2", 0.1)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_iterates_are_those_of_algorithm_1(small, norm, eps, loss):
    model, x, y = small
    rng = np.random.default_rng(3)
    d = rng.uniform(-1, 1, x.shape)
    start = np.clip(x + eps / 8 * d, 0, 1).astype("float32")
    steps, loss = 25, LOSSES[loss]
    n = len(y)
    images, scores, *_ = _attempt(
        *(model, tf.constant(x), tf.constant(y), tf.zeros(n, tf.int64), tf.constant(start)),
        *(tf.constant(eps), 0.0, 1.0, tf.constant(_intervals(steps)), tf.constant(False)),
        *(tf.range(n, dtype=tf.int64), tf.ones(n, tf.bool)),
        loss=loss,
        norm=norm,
        compact=True,
    )
    unbroken = np.flatnonzero(np.isinf(scores) & (scores.numpy() > 0))[:6]
    assert len(unbroken) == 6
    fine = 0
    for i in unbroken:
        iterates, sizes = algorithm(model, x[i], y[i], start[i], np.float32(eps), steps, norm, loss)
        assert sizes[0] == pytest.approx(2 * eps) and sizes[-1] < eps / 2  # the step was halved several times
        fine += np.abs(iterates[-1] - images[i]).max() < 1e-4
    assert fine >= 5  # rounding decides whether two almost equal losses rose


def test_more_steps_restarts_and_targets_are_stronger(small):
    model, x, y = small

    def robust(**settings):
        return np.argmax(model(apgd(model, x, y, 0.02, **settings)), axis=1) == y

    few, many, restarted = robust(steps=3), robust(steps=40), robust(steps=3, restarts=4)
    assert many.sum() <= few.sum()
    assert not (restarted & ~few).any()  # the first of several starts is that of one
    one, all_ = robust(loss="dlr-t", targets=1, steps=10), robust(loss="dlr-t", steps=10)
    assert not (all_ & ~one).any() and all_.sum() < one.sum()


def test_scaled_logits_blind_cross_entropy_and_not_dlr(small):
    import keras

    model, x, y = small
    scaled = keras.Sequential([*model.layers, keras.layers.Rescaling(1e4)])
    plain = (np.argmax(model(apgd(model, x, y, 0.02, loss="dlr", steps=20)), axis=1) == y).sum()
    for loss in ("dlr", "dlr-t", "cw"):
        found = (np.argmax(scaled(apgd(scaled, x, y, 0.02, loss=loss, steps=20)), axis=1) == y).sum()
        assert found <= plain + 1
    assert (np.argmax(scaled(apgd(scaled, x, y, 0.02, loss="ce", steps=20)), axis=1) == y).sum() > plain + 5
