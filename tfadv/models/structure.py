"""What is made of a model is kept as long as the model lives, and made again where its layers change."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import keras

_BUILDING = threading.RLock()  # the threads of several devices would otherwise make the same thing each


def layers_of(model: Any) -> list[keras.layers.Layer]:
    """The model itself and all layers inside it; none of a callable that is no Keras model."""
    return list(model._flatten_layers()) if isinstance(model, keras.Model) else []


def structure(model: Any) -> int:
    """A number that changes when layers get other variables or another precision, as by `quantize` or LoRA."""
    layers = layers_of(model)
    policies = tuple(layer.dtype_policy.name for layer in layers)
    return hash((policies, tuple(id(v) for layer in layers for v in layer._trainable_variables)))


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
