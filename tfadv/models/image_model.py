"""Models of inputs that are not (N, H, W, C), as models of images."""

from __future__ import annotations

import math
import weakref
from typing import Any

import keras
import numpy as np

from tfadv.models.structure import once_per_model
from tfadv.models.twins import copy_of

_CLASSIFIERS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # wrapper → classifier, see `stands_for`


def stands_for(wrapper: keras.Model, classifier: keras.Model) -> None:
    """Makes attacks and evaluations take this classifier where they are given a model that wraps it."""
    _CLASSIFIERS[wrapper] = classifier


def unwrapped(model: Any) -> Any:
    """The classifier of a wrapper, see `stands_for`; any other model itself."""
    return _CLASSIFIERS.get(model, model) if isinstance(model, keras.Model) else model


def image_shape(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The shape (H, W, C) of the images that stand for inputs of a shape.

    (H, W) becomes (H, W, 1).  D numbers become a square, of one channel or three where D allows, or else a column.

    Raises:
      ValueError: an input of another number of axes, or of an unknown number of pixels.
    """
    if len(shape) == 3:
        return shape
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) != 1 or shape[0] is None:
        raise ValueError(
            f"the model must take one batch of images, (N, H, W, C), (N, H, W) or (N, D) of a known size; it takes "
            f"(N, {', '.join(map(str, shape))})."
        )
    for channels in (1, 3):
        side = math.isqrt(shape[0] // channels)
        if side * side * channels == shape[0]:
            return side, side, channels
    return shape[0], 1, 1


def without_axes(images: keras.KerasTensor, shape: tuple[int | None, ...]) -> keras.KerasTensor:
    """Images of `image_shape(shape)` as a tensor of `shape`, without the axis of the images."""
    if len(shape) == 3:
        return images
    if len(shape) == 2:
        return keras.ops.squeeze(images, -1)
    return keras.layers.Flatten()(images)


def image_model(model: Any) -> Any:
    """The model itself, the classifier of a wrapper, or a model of images (N, H, W, C) that calls a copy of the model.

    Args:
      model: a callable; where it is a Keras model, it may take (N, H, W, C), (N, H, W) or (N, D).

    Raises:
      ValueError: see `image_shape`.
    """
    model = unwrapped(model)
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) not in (2, 3):
        return model
    if any(isinstance(size, tuple) for size in shape):  # several inputs
        return model
    return _of_images(model)


@once_per_model
def _of_images(model: keras.Model) -> keras.Model:
    shape = model.input_shape[1:]
    images = keras.Input(image_shape(shape))
    return keras.Model(images, copy_of(model)(without_axes(images, shape)), name=model.name)


def fitted(model: Any, x: Any) -> Any:
    """Images (N, H, W) or (N, D) as the images (N, H, W, C) that a model takes; other images as they are."""
    expected, shape = getattr(model, "input_shape", None), np.shape(x)
    if not isinstance(expected, tuple) or len(expected) != 4 or len(shape) not in (2, 3) or 0 in shape:
        return x
    if len(shape) == 3 and expected[-1] == 1 and all(own in (None, n) for own, n in zip(expected[1:3], shape[1:])):
        return x[..., None]
    if len(shape) == 2 and None not in expected[1:] and math.prod(expected[1:]) == shape[1]:
        return np.reshape(x, (-1, *expected[1:]))
    return x
