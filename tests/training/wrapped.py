"""Small models and their `AdversarialModel`, for its tests."""

import keras
import numpy as np

from tfadv.training.adversarial_model import AdversarialModel

SPARSE = "sparse_categorical_crossentropy"


def mlp(activation="softmax", classes=10, **policy):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(16, activation="relu", kernel_regularizer="l2", **policy)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(classes, activation=activation)])


def cnn():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    h = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    return keras.Model(x, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(h)))


def frozen():
    model = mlp()
    model.layers[1].trainable = False
    return model


def loss_of(model):
    last = getattr(model.layers[-1], "activation", None)
    probabilities = last is keras.activations.softmax or isinstance(model.layers[-1], keras.layers.Softmax)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)


def robust(model, defense="nfgsm", eps=0.1, optimizer=None, **options):
    """An `AdversarialModel`, compiled without XLA, whose compilation takes longer than these trainings."""
    wrapper = AdversarialModel(model, defense, eps, options.pop("input_range", (0.0, 1.0)))
    settings = {"loss": loss_of(model), "metrics": ["accuracy"], "jit_compile": False} | options
    wrapper.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), **settings)
    return wrapper


def fit(wrapper, x, y=None, **options):
    return wrapper.fit(x, y, **{"verbose": 0, "batch_size": 32, "shuffle": False} | options).history


def assert_same(a, b, **tolerance):
    for left, right in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, **tolerance or {"rtol": 0, "atol": 0})


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
