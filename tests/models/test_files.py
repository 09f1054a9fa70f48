import keras
import numpy as np
import pytest
from keras import layers

from tfadv import models
from tfadv.errors import UserError
from tfadv.models import files


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return models.build("resnet_tiny", (16, 16, 1), 3)


def test_a_loaded_model_equals_the_saved_one(model, tmp_path):
    files.save(model, tmp_path / "model.keras")
    loaded = files.load(tmp_path / "model.keras")
    assert files.weights_hash(loaded) == files.weights_hash(model)
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 1)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_the_hash_depends_on_every_weight(model):
    before = files.weights_hash(model)
    for variable in model.weights:
        old = variable.numpy()
        variable.assign(old + 1e-3)
        assert files.weights_hash(model) != before
        variable.assign(old)
    assert files.weights_hash(model) == before


def test_a_file_whose_end_is_missing(model, tmp_path):
    path = tmp_path / "model.keras"
    files.save(model, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.keras is not a .keras file, or its end is missing"):
        files.load(path)


def test_code_in_a_model_file_is_not_run(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "evil.keras")
    with pytest.raises(UserError, match="evil.keras contains code of its own.*Lambda"):
        files.load(tmp_path / "evil.keras")


def test_the_optimizer_is_not_saved(model, tmp_path):
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.zeros((4, 16, 16, 1)), np.zeros((4, 3)), verbose=0)  # creates two variables per weight
    files.save(model, tmp_path / "small.keras")
    model.save(tmp_path / "large.keras")
    small, large = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("small", "large"))
    assert not hasattr(small, "optimizer") and large.optimizer is not None


def test_an_unknown_class_is_named(tmp_path):
    class Foreign(layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((4,))
    keras.Model(inputs, Foreign()(inputs)).save(tmp_path / "foreign.keras")
    with pytest.raises(UserError, match="needs Foreign, which neither Keras nor tfadv knows"):
        files.load(tmp_path / "foreign.keras")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "missing"])
def test_a_file_that_is_no_model_is_named(model, tmp_path, damage):
    path = tmp_path / "damaged.keras"
    files.save(model, path)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"hello", "truncated": content[: len(content) // 2], "missing": b""}[damage]
    )
    if damage == "missing":
        path.unlink()
    with pytest.raises(UserError, match="damaged.keras"):
        files.load(path)
