"""Finds layers whose output is random: at inference, or those that augment images in training."""

from __future__ import annotations

import keras
import numpy as np

from tfadv.models.logits import original

_BATCH = 2
_AUGMENTATIONS = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if name.startswith("Random") or name in ("AugMix", "CutMix", "MixUp", "RandAugment")
)


def augmentation_layers(model: keras.Model) -> list[str]:
    """The names of Keras' layers for image augmentation in a model."""
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, _AUGMENTATIONS)]


def random_layers(model: keras.Model) -> list[str]:
    """The names of the layers whose outputs differ between two calls on the same input.

    Each layer is tried alone on random tensors of its input's shape. Layers of models that are not functional, whose
    input shapes are not recorded, are not found.
    """
    rng = np.random.default_rng(0)

    def tensors(symbolic: keras.KerasTensor) -> np.ndarray:
        return rng.normal(size=(_BATCH, *(size or 16 for size in symbolic.shape[1:]))).astype("float32")

    names = []
    for layer in original(model)._flatten_layers(include_self=False):
        if isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            continue
        try:
            inputs = keras.tree.map_structure(tensors, layer.input)
            first, second = (keras.tree.flatten(layer(inputs)) for _ in range(2))
        except Exception:  # a layer that takes other arguments, or no float32
            continue
        if any(not np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(first, second)):
            names.append(layer.name)
    return names
