"""Shared fixtures: the embedded digits, a linear classifier, and the real images where they lie beside the project."""

import pathlib

import tfadv  # noqa: F401  before TensorFlow: switches oneDNN on

import keras
import numpy as np
import pytest

from tfadv.datasets import sources

REAL = pathlib.Path(__file__).parents[2] / "shared" / "tfds"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def digits(data_dir):
    return sources.load("digits", data_dir, 32)


@pytest.fixture(scope="session")
def real_data():
    if not REAL.is_dir():
        pytest.skip(f"needs real TFDS images in {REAL}")
    return str(REAL)


@pytest.fixture
def linear():
    """(model, W (12, 3), b (3,)): softmax regression on images (2, 2, 3)."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(12, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([w, b])
    return model, w, b
