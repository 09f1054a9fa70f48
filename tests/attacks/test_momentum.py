"""BIM, MI-FGSM and one step to a target."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import bim, mifgsm, onestep, pgd


def gradient(model, x, y):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
    return tape.gradient(loss, x).numpy()


@pytest.mark.parametrize("targeted", [False, True])
def test_bim_is_equation_3(small, targeted):
    model, x, y = small
    at = x
    for _ in range(4):
        at = np.clip(
            np.clip(at + (-1 if targeted else 1) * 0.01 * np.sign(gradient(model, at, y)), x - 0.03, x + 0.03), 0, 1
        )
    made = bim(model, x, y, 0.03, steps=4, step_size=0.01, targeted=targeted)
    np.testing.assert_allclose(made, at, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_mifgsm_is_algorithm_1(small, decay, targeted):
    model, x, y = small
    at, g = x, 0
    for _ in range(6):
        now = (-1 if targeted else 1) * gradient(model, at, y)
        g = decay * g + now / np.abs(now).sum((1, 2, 3), keepdims=True)
        at = np.clip(np.clip(at + 0.1 / 6 * np.sign(g), x - 0.1, x + 0.1), 0, 1)
    made = mifgsm(model, x, y, 0.1, steps=6, decay=decay, targeted=targeted)
    assert (np.abs(made - at) > 1e-5).mean() < 2e-3


def test_momentum_acts_and_without_it_it_is_bim(small):
    model, x, y = small
    settings = dict(steps=8, step_size=0.02)
    plain = bim(model, x, y, 0.1, **settings)
    np.testing.assert_array_equal(mifgsm(model, x, y, 0.1, decay=0, **settings), plain)
    assert (np.abs(mifgsm(model, x, y, 0.1, decay=1.0, **settings) - plain) > 1e-3).mean() > 0.01


def test_bim_is_pgd_from_the_image_and_takes_no_random_numbers(small):
    model, x, y = small
    np.testing.assert_array_equal(bim(model, x, y, 0.05, seed=1), pgd(model, x, y, 0.05, random_start=False))


@pytest.mark.parametrize("target", ["least-likely", "given"])
def test_onestep_is_equation_2(small, target):
    model, x, y = small
    logits = model(x).numpy()
    classes = np.where(np.eye(5, dtype=bool)[y], np.inf, logits).argmin(1) if target == "least-likely" else (y + 2) % 5
    expected = np.clip(x - 0.05 * np.sign(gradient(model, x, classes)), 0, 1)
    made = onestep(model, x, y, 0.05, target=target if target == "least-likely" else classes)
    assert (np.abs(made - expected) > 1e-6).mean() < 1e-3


def test_onestep_at_random_follows_the_seed(small):
    model, x, y = small
    a, again, b = (onestep(model, x, y, 0.05, target="random", seed=s).numpy() for s in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any()
