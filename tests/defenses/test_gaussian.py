"""Training with Gaussian noise: the noise itself, and one step of training by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.defenses import DEFENSES
from tfadv.defenses.gaussian import Gaussian
from tfadv.errors import UserError
from tfadv.specs import build_with
from tfadv.training import Trainer
from tfadv.training.adversarial_model import AdversarialModel

W, B = np.array([[0.5, -1.0], [1.0, 0.3], [-0.2, 0.8], [0.1, 0.0]], "float32"), np.array([0.1, 0.0], "float32")
RATE = 0.1


def linear():
    """Two classes of images (2, 2, 1)."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([W, B])
    return model


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(6, 2, 2, 1)).astype("float32"), np.array([0, 1, 1, 0, 1, 0])


def noisy(x, seed, sigma):
    return x + np.float32(sigma) * tf.random.stateless_normal(x.shape, tf.constant(seed, tf.int64)).numpy()


def after_a_step(x, y):
    """The weights of `linear` after a step of gradient descent on the cross-entropy."""
    flat = x.reshape(len(x), 4)
    z = flat @ W + B
    e = np.exp(z - z.max(axis=1, keepdims=True))
    residual = (e / e.sum(axis=1, keepdims=True) - np.eye(2)[y]) / len(x)
    return W - RATE * flat.T @ residual, B - RATE * residual.sum(axis=0)


def test_the_noise_has_its_standard_deviation_and_is_not_clipped():
    x = tf.zeros((100, 10, 10, 3))
    defense, y = Gaussian(sigma=0.5), tf.zeros(100, tf.int64)
    draws = [defense.perturb(None, x, y, tf.constant(0.1), tf.constant(s, tf.int64)) for s in ((0, 1), (0, 2))]
    for drawn in draws:
        assert abs(np.std(drawn) - 0.5) < 0.01 and abs(np.mean(drawn)) < 0.01 and np.min(drawn) < -1
    correlation = np.corrcoef(np.ravel(draws[0]), np.ravel(draws[1]))[0, 1]
    assert abs(correlation) < 0.03
    assert len(np.unique(draws[0])) > 0.99 * draws[0].numpy().size  # each image has noise of its own


def test_share_of_a_batch(batch):
    x, y = map(tf.constant, batch)
    with_noise = Gaussian(share=0.5).perturb(None, x, y, tf.constant(0.0), tf.constant((0, 1), tf.int64))
    assert with_noise.shape == x.shape and (with_noise != x).numpy().any(axis=(1, 2, 3)).sum() == 3


def test_a_step_of_the_command_line_equals_one_by_hand(batch):
    x, y = batch
    trainer = Trainer(linear(), defense=Gaussian(sigma=0.3), optimizer="sgd")
    trainer._optimizer.learning_rate = RATE
    for eps in (0.0, 0.5):  # which means nothing
        trainer.model.set_weights([W, B])
        for variable in trainer._optimizer.variables[2:]:  # momentum
            variable.assign(np.zeros(variable.shape))
        trainer.train_step(tf.constant(x), tf.constant(y), eps, (3, -8))
        first = after_a_step(noisy(x, (3, -8), 0.3), y)
        momentum = 1.9  # of Nesterov, in the first step
        for given, before, own in zip(trainer.model.get_weights(), (W, B), first):
            np.testing.assert_allclose(given, before + momentum * (own - before), atol=1e-6)


@pytest.mark.parametrize("input_range", [(0, 1), (0, 255)])
def test_steps_of_fit_equal_those_by_hand_with_new_noise_in_each(batch, input_range):
    x, y = batch
    model, seen = linear(), []
    scale = input_range[1]
    if scale != 1:
        model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Rescaling(1 / scale), *model.layers])
    robust = AdversarialModel(model, "gaussian(sigma=0.3)", input_range=input_range, seed=4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    robust.compile(keras.optimizers.SGD(RATE), loss)
    for step in range(2):
        model.set_weights([W, B])
        robust.fit(x * np.float32(scale), y, batch_size=6, shuffle=False, verbose=0)
        seen.append(model.get_weights())
        for given, own in zip(seen[-1], after_a_step(noisy(x, (4, -1 - step), 0.3), y)):
            np.testing.assert_allclose(given, own, atol=1e-5)
    assert np.abs(seen[0][0] - seen[1][0]).max() > 1e-3


def test_images_count_for_the_epoch_to_keep_where_they_are_correct_with_noise():
    x, y = tf.fill((2000, 2, 2, 1), 0.5), tf.zeros(2000, tf.int64)
    model = linear()
    model.set_weights([np.array([[1.0, -1.0]] * 4), np.array([-1.5, 1.5])])  # class 0 where the pixels sum to over 1.5
    correct = Gaussian(sigma=0.25).robust(model, x, y, tf.constant(0.5)).numpy()
    assert abs(correct.mean() - 0.841) < 0.04  # Φ(0.5 / (0.25 · 2))
    again = Gaussian(sigma=0.25, epochs=9).robust(model, x, y, tf.constant(0.0)).numpy()
    np.testing.assert_array_equal(again, correct)


def test_there_is_no_eps():
    defense = build_with("gaussian", {"sigma": 0.5}, DEFENSES)
    assert defense.label == "gaussian(sigma=0.5)" and defense.cost == 1
    assert "Gaussian noise in each step" in defense.summary and "attacked" not in defense.summary
    for setting in ("eps", "norm", "eps_schedule"):
        with pytest.raises(UserError, match=f"gaussian has no setting '{setting}'"):
            build_with("gaussian", {setting: 0.1}, DEFENSES)
    with pytest.raises(ValueError, match="sigma must be"):
        Gaussian(sigma=0)
