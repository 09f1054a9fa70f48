import keras
import numpy as np
import pytest

from tfadv import models
from tfadv.errors import UserError

# torchvision's counts with 10 classes.
PARAMETERS = {"resnet18": 11_181_642, "resnet50": 23_528_522, "resnet101": 42_520_650}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count_equals_torchvision(name):
    model = models.build(name, (32, 32, 3), 10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == PARAMETERS[name]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(n.momentum, n.epsilon) for n in norms} == {(0.9, 1e-5)}


@pytest.mark.parametrize("shape", [(32, 32, 1), (64, 64, 3), (33, 33, 3)])
def test_shape_and_dtype_of_the_logits(shape):
    model = models.build("resnet_tiny", shape, 7)
    logits = model(np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32"))
    assert logits.shape == (2, 7) and logits.dtype == "float32"


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build("resnet_tiny", (16, 16, 3), 3)
        assert model(np.zeros((1, 16, 16, 3), "float32")).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_strided_padding_is_symmetric():
    """A mirrored image gives mirrored features; Keras' "same" padding would shift them."""
    model = models.build("resnet_tiny", (33, 33, 1), 3)
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    kernel = model.get_layer("stem_conv").kernel
    kernel.assign((kernel + kernel[:, ::-1]) / 2)
    x = np.random.default_rng(0).uniform(size=(1, 33, 33, 1)).astype("float32")
    np.testing.assert_allclose(stem(x)[:, :, ::-1], stem(x[:, :, ::-1]), atol=1e-4)


def test_synchronized_batchnorm():
    for synchronized in (False, True):
        model = models.build("resnet_tiny", (16, 16, 1), 3, synchronized=synchronized)
        norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert norms and {norm.synchronized for norm in norms} == {synchronized}


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown model 'resnet19': did you mean 'resnet18'"):
        models.build("resnet19", (16, 16, 1), 3)
