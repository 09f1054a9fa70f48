"""Pretrained weights; KerasHub's networks have random ones here, because the presets need a network."""

import sys

import keras
import numpy as np
import pytest

from tfadv import models
from tfadv.errors import UserError
from tfadv.models import files, pretrained

SPECS = {"resnet18": ("basic_block", [2, 2, 2, 2]), "resnet50": ("bottleneck_block", [3, 4, 6, 3])}


def randomized(model, seed):
    """All weights, statistics included, such that outputs neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "kernel" in variable.path:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(scale=np.sqrt(1.5 / fan_in), size=variable.shape))
        else:
            low = 0.5 if "variance" in variable.path or "gamma" in variable.path else -0.3
            variable.assign(rng.uniform(low, low + 0.6, variable.shape))
    return model


@pytest.mark.parametrize("name", [n if n == "resnet18" else pytest.param(n, marks=pytest.mark.long) for n in SPECS])
def test_features_equal_those_of_keras_hub(name):
    keras_hub = pytest.importorskip("keras_hub", reason="needs the extra pretrained", exc_type=ImportError)
    block, stages = SPECS[name]
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=stages,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=block,
        image_shape=(64, 64, 3),
    )
    randomized(backbone, 0)
    keras.utils.set_random_seed(1)
    model = models.build(name, (64, 64, 3), 4)
    head = model.get_layer("logits").get_weights()
    carried = pretrained.carry_over(backbone, model)
    x = np.random.default_rng(2).uniform(size=(3, 64, 64, 3)).astype("float32")
    expected = backbone((x - np.float32(pretrained._MEAN)) / np.float32(pretrained._STD)).numpy().mean(axis=(1, 2))
    features = keras.Model(carried.input, carried.get_layer("pool").output)(x).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(carried.get_layer("logits").get_weights()[0], head[0])


@pytest.mark.long
def test_the_names_of_all_layers_of_resnet101_are_known_in_keras_hub():
    model = models.build("resnet101", (32, 32, 3), 2)
    names = [pretrained._name_in_keras_hub(layer.name) for layer in model.layers[:-1] if layer.weights]
    assert len(set(names)) == len(names) == 2 * 104
    assert {"conv1_conv", "conv1_bn", "stack0_block0_0_conv", "stack2_block22_3_bn"} <= set(names)


def test_weights_of_a_file_but_for_a_head_of_other_classes(tmp_path):
    source = randomized(models.build("resnet_tiny", (16, 16, 3), 4), 0)
    files.save(source, tmp_path / "tiny.keras")
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    same = pretrained.with_weights(models.build("resnet_tiny", (16, 16, 3), 4), str(tmp_path / "tiny.keras"))
    np.testing.assert_allclose(same(x), source(x), atol=1e-5)
    other = models.build("resnet_tiny", (24, 24, 3), 7)
    head = other.get_layer("logits").get_weights()[0]
    loaded = pretrained.with_weights(other, str(tmp_path / "tiny.keras"))
    np.testing.assert_array_equal(loaded.get_layer("logits").get_weights()[0], head)
    np.testing.assert_array_equal(loaded.get_layer("stem_conv").kernel, source.get_layer("stem_conv").kernel)
    assert pretrained.identity(str(tmp_path / "tiny.keras")) != pretrained.identity("imagenet") == "imagenet"
    assert pretrained.identity("") is None


def test_the_normalization_of_a_file_is_kept(tmp_path):
    tiny = models.build("resnet_tiny", (16, 16, 3), 4)
    changed = randomized(pretrained._normalized(tiny, keras.layers.Rescaling([1.0, 2.0, 3.0], [0.0, -1.0, 0.5])), 0)
    files.save(changed, tmp_path / "tiny.keras")
    loaded = pretrained.with_weights(tiny, str(tmp_path / "tiny.keras"))
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(loaded(x), changed(x), atol=1e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    files.save(models.build("resnet_tiny", (16, 16, 3), 4), tmp_path / "tiny.keras")
    with pytest.raises(UserError, match="is not a tfadv resnet18"):
        pretrained.with_weights(models.build("resnet18", (16, 16, 3), 4), str(tmp_path / "tiny.keras"))
    with pytest.raises(UserError, match="does not fit resnet_tiny: stem_conv has another shape"):
        pretrained.with_weights(models.build("resnet_tiny", (16, 16, 1), 4), str(tmp_path / "tiny.keras"))
    with pytest.raises(UserError, match="none for resnet_tiny, only for resnet18, resnet50, resnet101"):
        pretrained.with_weights(models.build("resnet_tiny", (16, 16, 3), 4), "imagenet")
    with pytest.raises(UserError, match="needs images with 3 channels"):
        pretrained.with_weights(models.build("resnet18", (32, 32, 1), 4), "imagenet")


def test_without_keras_hub_or_a_network_there_is_one_line(monkeypatch):
    model = models.build("resnet18", (32, 32, 3), 4)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(UserError, match=r"needs KerasHub .*pip install 'tfadv\[pretrained\]'"):
        pretrained.with_weights(model, "imagenet")

    class Hub:
        class models:
            class Backbone:
                @staticmethod
                def from_preset(name):
                    raise OSError(f"no route to host for {name}")

    monkeypatch.setitem(sys.modules, "keras_hub", Hub)
    with pytest.raises(UserError, match="resnet_18_imagenet can't be fetched .*no route to host.*try --weights=FILE"):
        pretrained.with_weights(model, "imagenet")
