"""Adversarial weight perturbation by hand, on a linear model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import models
from tfadv.runtime.devices import Devices
from tfadv.training.awp import perturbed_weights


def gradient_of(loss):
    def gradient(variables):
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, [v.value for v in variables])

    return gradient


def test_weights_move_along_the_gradient_and_come_back():
    layer = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    x, before = tf.constant([[1.0, 2.0, -1.0]]), [w.copy() for w in model.get_weights()]

    def loss():
        return tf.reduce_sum(model(x, training=True) * [1.0, -2.0])  # its gradient at the kernel is xᵀ (1, -2)

    with perturbed_weights(model, gradient_of(loss), 0.1, Devices()):
        kernel, bias = model.get_weights()
    gradient = np.outer(x, [1, -2])
    expected = before[0] + 0.1 * np.linalg.norm(before[0]) * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)
    np.testing.assert_array_equal(bias, before[1])
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_statistics_are_those_of_one_call(size):
    keras.utils.set_random_seed(0)
    model = models.build("resnet_tiny", (16, 16, 3), 4)
    x = tf.random.stateless_uniform((8, 16, 16, 3), (0, 0))
    start = model.get_weights()

    def loss():
        return tf.reduce_sum(model(x, training=True) ** 2)

    with perturbed_weights(model, gradient_of(loss), size, Devices()):
        inside = model.get_weights()
    moved = [(a != b).any() for a, b in zip(inside, start)]
    assert any(moved) == (size > 0)
    assert not any(m for m, v in zip(moved, model.weights) if "moving" in v.path)
