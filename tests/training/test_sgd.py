import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.training.sgd import SGD


def compiled_step(optimizer, variables):
    return tf.function(lambda *gradients: optimizer.apply(gradients, variables))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_equals_keras_where_only_kernels_decay(decay):
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(3, 4)), "gamma": rng.normal(size=4), "beta": rng.normal(size=4)}
    theirs = keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=decay or None)
    theirs.exclude_from_weight_decay(var_names=["gamma", "beta"])
    variables = []
    for optimizer in (SGD(decay=decay), theirs):
        own = [keras.Variable(v.astype("float32"), name=k) for k, v in start.items()]
        optimizer.build(own)
        step = compiled_step(optimizer, own)
        for i in range(5):
            optimizer.learning_rate = 0.1 * (i + 1)
            step(*[tf.constant(rng.normal(size=v.shape), tf.float32) for v in own])
        rng = np.random.default_rng(0)
        for v in start.values():
            rng.normal(size=v.shape)  # the same gradients for the second optimizer
        variables.append([v.numpy() for v in own])
    for ours, reference, before in zip(*variables, start.values()):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)
        assert np.abs(ours - before).min() > 1e-3
