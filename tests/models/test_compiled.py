"""Functions that are compiled once per model."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import models
from tfadv.models.accelerate import accelerated
from tfadv.models.compiled import PerModel, compiled_logits
from tfadv.runtime import compilation


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return models.build("resnet_tiny", (16, 16, 1), 3)


@pytest.fixture(autouse=True)
def default_compilation():
    yield
    compilation.configure()


def images(n):
    return np.random.default_rng(n).uniform(size=(n, 16, 16, 1)).astype("float32")


class Traced:
    """A function that records when it is traced, and which model it gets."""

    def __init__(self):
        self.models = []
        self.compiled = PerModel(self)

    def __call__(self, model, x, pair, *, factor=1.0):
        self.models.append(model)
        return factor * model(x, training=False) + pair[0] - pair[1]


def test_one_trace_serves_all_numbers_of_images(model):
    function, pair = Traced(), (np.float32(2), np.float32(1))
    for n in (4, 1, 9):
        x = images(n)
        np.testing.assert_allclose(function.compiled(model, x, pair), model(x) + 1, atol=1e-5)
    assert len(function.models) == 1
    function.compiled(model, images(4), pair, factor=2.0)
    assert len(function.models) == 2  # another setting is traced anew


def test_the_choice_of_compilation_is_part_of_the_key(model):
    function, pair = Traced(), (np.float32(0), np.float32(0))
    for accelerate in ("auto", "off", "auto"):
        compilation.configure(accelerate=accelerate)
        function.compiled(model, images(2), pair)
    assert function.models == [accelerated(model), model]


def test_xla_computes_the_same(model):
    x = images(5)
    plain = compiled_logits(model, x)
    compilation.configure(jit_compile="true")
    np.testing.assert_allclose(compiled_logits(model, x), plain, atol=1e-4)


def test_clones_change_logits_only_by_rounding(model):
    x = images(40)
    fast = compiled_logits(model, x).numpy()
    compilation.configure(accelerate="off")
    np.testing.assert_allclose(compiled_logits(model, x), fast, atol=1e-4)
    np.testing.assert_allclose(model(x), fast, atol=1e-4)


def test_models_are_freed_with_their_functions():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    compilation.configure(accelerate="off")
    compiled_logits(model, np.zeros((2, 4), "float32"))
    reference = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None


def test_many_models_cause_no_retracing_warning(caplog):
    tf.get_logger().propagate, before = True, tf.get_logger().propagate
    try:
        for _ in range(8):
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
            compiled_logits(model, np.zeros((2, 4), "float32"))
    finally:
        tf.get_logger().propagate = before
    assert "retracing" not in caplog.text
