"""Small networks for tests of all attacks, and a log for tests of resumption."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfadv import models
from tfadv.runtime import compilation


@pytest.fixture(scope="module")
def tiny():
    """A small ResNet with statistics like those of a trained one, so that BatchNorm does something."""
    keras.utils.set_random_seed(1)
    model = models.build("resnet_tiny", (16, 16, 3), 4)
    rng = np.random.default_rng(1)
    for v in model.weights:
        if "gamma" in v.path or "moving_variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif "moving_mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(0, 0.3, v.shape))
    return model


def perceptron(classes, shape=(6, 6, 2), seed=0):
    """A smooth network with one hidden layer."""
    rng = np.random.default_rng(seed)
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(16, "tanh"), keras.layers.Dense(classes)]
    model = keras.Sequential(layers)
    for v in model.weights:
        v.assign(rng.normal(0, 0.5 if "kernel" in v.path else 0.1, v.shape))
    return model


@pytest.fixture(scope="module")
def small():
    """(model, x (40, 6, 6, 2), y): a smooth network of five classes, all right but the last two."""
    model, rng = perceptron(5), np.random.default_rng(0)
    x = rng.uniform(size=(40, 6, 6, 2)).astype("float32")
    y = np.argmax(model(x), axis=1)
    y[-2:] = (y[-2:] + 1) % 5
    return model, x, y


@pytest.fixture
def of_classes():
    """Function of a number of classes → (model, x, y), all of them right."""

    def build(classes):
        model = perceptron(classes, seed=classes)
        x = np.random.default_rng(1).uniform(size=(30, 6, 6, 2)).astype("float32")
        return model, x, np.argmax(model(x), axis=1)

    return build


@pytest.fixture(scope="module")
def linear_in_l1():
    """(model, x (3, 16, 16, 3), y, float64 (3,)): a linear model, and how far in L1 the nearest adversarial images are.

    At best, a perturbation changes the pixels of the largest weights, each up to its bound.
    """
    generator = np.random.default_rng(0)
    shape, w = (16, 16, 3), generator.normal(size=(768, 2)).astype("float32") / 20
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([w, np.array([2, 0], "float32")])
    x, toward = generator.uniform(size=(3, *shape)).astype("float32"), (w[:, 1] - w[:, 0]).astype(float)
    logits, order, distances = model(x).numpy(), np.argsort(-np.abs(toward)), []
    for image, margin in zip(x.reshape(3, -1).astype(float), logits[:, 0] - logits[:, 1]):
        room = np.where(toward > 0, 1 - image, image)[order]
        distances.append(np.interp(margin, np.cumsum(room * np.abs(toward[order])), np.cumsum(room)))
    assert min(distances) > 2  # many pixels reach their bounds
    return model, x, np.zeros(3, int), np.array(distances)


@pytest.fixture
def xla():
    """Compiles with XLA during a test."""
    compilation.configure(jit_compile="true")
    yield
    compilation.configure()


def batch(n=8, shape=(16, 16, 3), classes=4, seed=0):
    """Random images and labels."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, *shape)).astype("float32"), rng.integers(0, classes, n)


def of_range(model, low, high):
    """The model for pixels in [low, high] in place of [0, 1]; it shares the layers."""
    scale = keras.layers.Rescaling(1 / (high - low), -low / (high - low))
    return keras.Sequential([keras.Input(model.input_shape[1:]), scale, *model.layers])


def is_right(model, x, y):
    """bool (N,)."""
    return np.argmax(model(x), axis=1) == y
