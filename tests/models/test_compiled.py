"""Functions that are compiled once per model."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import evaluate, models
from tfadv.models.accelerate import accelerated
from tfadv.models.compiled import PerModel, compiled_logits
from tfadv.models.structure import structure
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


@pytest.mark.parametrize("kind", ["sequential", "(N, H, W)", "nested", "half precision", "subclassed"])
def test_the_constants_of_normalization_are_those_of_now(kind, tmp_path):
    """`adapt` and `load_weights` change its mean and variance, which are no variables."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm, self.flatten, self.dense = normalization, keras.layers.Flatten(), keras.layers.Dense(3)

        def call(self, x):
            return self.dense(self.flatten(self.norm(x)))

    policy = "mixed_float16" if kind == "half precision" else "float32"
    normalization, shape = keras.layers.Normalization(axis=None), (4, 4) if kind == "(N, H, W)" else (4, 4, 1)
    normalization.build((None, *shape))  # inside of `call`, it would keep a symbolic tensor, with which Keras fails
    parts = [normalization, keras.layers.Flatten(), keras.layers.Dense(3, dtype=policy)]
    model = Subclassed() if kind == "subclassed" else keras.Sequential([keras.Input(shape), *parts])
    if kind == "nested":
        model = keras.Sequential([keras.Input(shape), keras.layers.Rescaling(2.0), model])
    x, y = np.random.default_rng(0).uniform(size=(20, *shape)).astype("float32"), np.arange(20) % 3
    model(x)
    model.save_weights(tmp_path / "before.weights.h5")

    def is_right():
        own = np.argmax(model(x), axis=1) == y
        found = [evaluate(model, x, y, attack, 0.1).clean_correct for attack in (None, "fgsm")]
        return np.array_equal(own, found[0]) and np.array_equal(own, found[1])

    assert is_right()
    normalization.adapt(20 * x - 10)
    number = structure(model)
    assert is_right()
    normalization.adapt(20 * x - 10)
    assert structure(model) == number  # nothing is compiled again
    model.load_weights(tmp_path / "before.weights.h5")
    assert structure(model) != number and is_right()


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
