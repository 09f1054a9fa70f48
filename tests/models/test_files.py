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


def test_saved_and_loaded_is_the_same_model(model, tmp_path):
    files.save(model, tmp_path / "model.keras")
    loaded = files.load(tmp_path / "model.keras")
    assert files.weights_hash(loaded) == files.weights_hash(model)
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 1)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_the_hash_follows_every_weight(model):
    before = files.weights_hash(model)
    for variable in model.weights:
        old = variable.numpy()
        variable.assign(old + 1e-3)
        assert files.weights_hash(model) != before
        variable.assign(old)
    assert files.weights_hash(model) == before


def test_code_in_a_model_file_is_not_run(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "evil.keras")
    with pytest.raises(UserError, match="evil.keras carries code of its own.*Lambda"):
        files.load(tmp_path / "evil.keras")


def test_an_unknown_class_is_named(tmp_path):
    class Foreign(layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((4,))
    keras.Model(inputs, Foreign()(inputs)).save(tmp_path / "foreign.keras")
    with pytest.raises(UserError, match="needs Foreign, which neither Keras nor tfadv knows"):
        files.load(tmp_path / "foreign.keras")


@pytest.mark.parametrize("harm", ["empty", "text", "truncated", "missing"])
def test_what_is_no_model_is_named(model, tmp_path, harm):
    path = tmp_path / "broken.keras"
    files.save(model, path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": content[: len(content) // 2], "missing": b""}[harm])
    if harm == "missing":
        path.unlink()
    with pytest.raises(UserError, match="broken.keras"):
        files.load(path)
