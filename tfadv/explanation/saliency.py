"""Where in an image a model looks: saliency and Grad-CAM."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient, logits_of
from tfadv.models.compiled import PerModel
from tfadv.models.structure import once_per_model
from tfadv.models.twins import copy_of, float32_twin

SMALLEST_MAP = 4  # pixels; coarser feature maps do not say where something is


class NoFeatureMaps(ValueError):
    """The model has no outputs (N, H, W, C) inside, which Grad-CAM needs."""


_compiled_gradient = PerModel(lambda model, x, y: logits_and_gradient(model, x, y)[1])


def saliency(model: Any, x: Any, y: Any) -> np.ndarray:
    """How much each pixel changes the loss: the largest absolute gradient of its channels.

    Simonyan et al. 2013, https://arxiv.org/abs/1312.6034, section 3, with the cross-entropy instead of a logit.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int (N,), the classes that the loss is for.

    Returns:
      float32 (N, H, W), >= 0.
    """
    gradient = _compiled_gradient(model, tf.convert_to_tensor(x), tf.cast(y, tf.int64))
    return tf.reduce_max(tf.abs(gradient), axis=-1).numpy()


def grad_cam(model: keras.Model, x: Any, y: Any) -> np.ndarray:
    """Grad-CAM: the parts of an image that speak for a class.

    Selvaraju et al. 2016, https://arxiv.org/abs/1610.02391, eq. 1 and 2.  The feature maps are the last ones that have
    at least 4 × 4 pixels, or else the last ones.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int (N,), the classes.

    Returns:
      float32 (N, H, W) in [0, 1]: 1 at the most important place of each image, 0 everywhere if no place speaks for the
      class.

    Raises:
      NoFeatureMaps: the model has none.
    """
    x, copy = tf.convert_to_tensor(x), _copy(model)
    with _recorded(copy) as maps, tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_of(copy, x)
        score = tf.reduce_sum(tf.gather(logits, tf.cast(y, tf.int64), batch_dims=1))
    if not maps:
        raise NoFeatureMaps(f"{model.name} has no feature maps (N, H, W, C), which Grad-CAM needs.")
    features = next((m for m in reversed(maps) if min(m.shape[1:3]) >= SMALLEST_MAP), maps[-1])
    weights = tf.reduce_mean(tape.gradient(score, features, unconnected_gradients="zero"), axis=(1, 2), keepdims=True)
    cam = tf.nn.relu(tf.reduce_sum(tf.cast(weights * features, tf.float32), axis=-1, keepdims=True))
    cam = tf.image.resize(cam, x.shape[1:3])[..., 0]
    return (cam / tf.maximum(tf.reduce_max(cam, axis=(1, 2), keepdims=True), 1e-12)).numpy()


@once_per_model
def _copy(model: keras.Model) -> keras.Model:
    """A float32 model of other layers with the same variables: the calls of its layers are recorded."""
    return copy_of(float32_twin(model) or model)


@contextlib.contextmanager
def _recorded(model: keras.Model) -> Iterator[list[tf.Tensor]]:
    """A list that takes the 4-D outputs of all layers without sub-layers, in the order of their calls; no paddings."""
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not layer._layers and not isinstance(layer, keras.layers.ZeroPadding2D)
    ]
    maps: list[tf.Tensor] = []

    def recording(call: Any) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            if isinstance(output, tf.Tensor) and output.shape.rank == 4:
                maps.append(output)
            return output

        return record

    with contextlib.ExitStack() as stack:
        for layer in layers:
            object.__setattr__(layer, "call", recording(layer.call))
            stack.callback(object.__delattr__, layer, "call")
        yield maps
