"""Initial weights of models of the table: pretrained on ImageNet, or from a file."""

from __future__ import annotations

import hashlib
import pathlib
import re
from typing import Any

import keras

from tfadv.errors import UserError
from tfadv.models import files

IMAGENET = "imagenet"
PRESETS = {name: name.replace("resnet", "resnet_") + "_imagenet" for name in ("resnet18", "resnet50", "resnet101")}
# Per-channel mean and standard deviation of ImageNet's pixels in [0, 1], which the presets expect to be normalized.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEAD, _NORMALIZATION = "logits", "normalise"


def identity(weights: str) -> str | None:
    """What identifies `--weights`: the name, or the hash of the file; None where there are none."""
    if not weights or weights == IMAGENET:
        return weights or None
    return hashlib.sha256(pathlib.Path(weights).read_bytes()).hexdigest()


def with_weights(model: keras.Model, weights: str) -> keras.Model:
    """A model of the table with pretrained weights in all layers but the head, which stays random.

    Args:
      model: built by `tfadv.models.build`.
      weights: "imagenet", or the path of a `.keras` file of the same model; its head is loaded too if
        the number of classes matches.

    Returns:
      The model, or one of the same layers with another normalization of the pixels.

    Raises:
      UserError: there are no such weights for this model, or they can't be read or fetched.
    """
    if weights == IMAGENET:
        return _from_imagenet(model)
    source = files.load(weights)
    names = [layer.name for layer in model.layers]
    if [layer.name for layer in source.layers] != names:
        raise UserError(f"--weights={weights} is not a tfadv {model.name}: its layer names differ.")
    model = _normalized(model, source.get_layer(_NORMALIZATION))
    for layer in model.layers:
        own, other = layer.get_weights(), source.get_layer(layer.name).get_weights()
        if [w.shape for w in own] == [w.shape for w in other]:
            layer.set_weights(other)
        elif layer.name != _HEAD:
            raise UserError(f"--weights={weights} does not fit {model.name}: {layer.name} has another shape.")
    return model


def _from_imagenet(model: keras.Model) -> keras.Model:
    if model.name not in PRESETS:
        raise UserError(f"--weights=imagenet: there are none for {model.name}, only for {', '.join(PRESETS)}.")
    if model.input_shape[-1] != 3:
        raise UserError("--weights=imagenet needs images with 3 channels: those of this data set are grey.")
    preset = PRESETS[model.name]
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(f"--weights=imagenet needs KerasHub ({error}): pip install 'tfadv[pretrained]'.")
    try:
        backbone = keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:  # whatever Kaggle's client raises without a network
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the weights {preset} can't be fetched from Kaggle ({reason}): try --weights=FILE.")
    return carry_over(backbone, model)


def carry_over(backbone: keras.Model, model: keras.Model) -> keras.Model:
    """A ResNet of the table with the weights of KerasHub's ResNet of the same configuration.

    Args:
      backbone: a `keras_hub.models.ResNetBackbone`.
      model: built by `tfadv.models.build`, for images with 3 channels.

    Returns:
      A model whose features are those of the backbone for pixels normalized as those of ImageNet.

    Raises:
      UserError: the two have other layers.
    """
    model = _normalized(model, keras.layers.Rescaling([1 / s for s in _STD], [-m / s for m, s in zip(_MEAN, _STD)]))
    for layer in model.layers:
        if layer.weights and layer.name != _HEAD:
            try:
                layer.set_weights(backbone.get_layer(_name_in_keras_hub(layer.name)).get_weights())
            except ValueError as error:
                raise UserError(f"the pretrained weights do not fit {model.name} ({str(error)[:200]}).")
    return model


def _name_in_keras_hub(name: str) -> str:
    """stage2_block1_conv1 → stack1_block0_1_conv, and so on."""
    if name.startswith("stem_"):
        return name.replace("stem_", "conv1_")
    stage, block, rest = re.fullmatch(r"stage(\d+)_block(\d+)_(.+)", name).groups()  # type: ignore[union-attr]
    kind = re.fullmatch(r"(?:shortcut_)?(conv|bn)(\d*)", rest)
    return f"stack{int(stage) - 1}_block{int(block) - 1}_{kind[2] or 0}_{kind[1]}"  # type: ignore[index]


def _normalized(model: keras.Model, normalization: Any) -> keras.Model:
    """The same layers after another normalization of the pixels."""
    config = normalization.get_config() | {"name": _NORMALIZATION}

    def clone(layer: Any) -> Any:
        settings = config if layer.name == _NORMALIZATION else layer.get_config()
        return layer.__class__.from_config(settings)

    clone_of = keras.models.clone_model(model, clone_function=clone)
    clone_of.set_weights(model.get_weights())
    return clone_of
