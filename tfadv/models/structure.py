"""What is made of a model is kept as long as the model lives, and made again where its layers change."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_BUILDING = threading.RLock()  # the threads of several devices would otherwise make the same thing each


def layers_of(model: Any) -> list[keras.layers.Layer]:
    """The model itself and all layers inside it; none of a callable that is no Keras model."""
    return list(model._flatten_layers()) if isinstance(model, keras.Model) else []


def structure(model: Any) -> int:
    """A number that changes with what compiled functions and clones of a model keep of its layers.

    These are the variables and the precision, which `quantize` and LoRA change, and the mean and the variance of
    Normalization, which `adapt` and `load_weights` change.
    """
    layers = layers_of(model)
    policies = tuple(layer.dtype_policy.name for layer in layers)
    variables = tuple(id(v) for layer in layers for v in layer._trainable_variables)
    return hash((policies, variables, tuple(constant for layer in layers for constant in _constants(layer))))


def _constants(layer: keras.layers.Layer) -> tuple[bytes, ...]:
    """The values of the mean and the variance of Normalization, which computes with tensors and not with variables."""
    if not isinstance(layer, keras.layers.Normalization) or layer.mean is None:  # not built
        return ()
    values = map(tf.get_static_value, (layer.mean, layer.variance))
    return tuple(value.tobytes() for value in values if value is not None)  # of tensors outside of any tf.function


def once_per_model(make: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `make(model, *settings)`, which is then called once for each model, structure and settings.

    What it returns must not hold the model, or the model would live forever.
    """
    made: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()

    @functools.wraps(make)
    def kept(model: Any, *settings: Any) -> Any:
        with _BUILDING:
            own, key = made.setdefault(model, {}), (structure(model), *settings)
            if key not in own:
                own[key] = make(model, *settings)
            return own[key]

    return kept
