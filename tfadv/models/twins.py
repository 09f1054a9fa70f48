"""Copies of a model that share its variables: a float32 twin, whose gradient at the image does not underflow.

The gradient of a confident prediction is smaller than float16 can hold.  An attack that follows the gradient of a
float16 model leaves most images where they are, and the model looks robust (https://github.com/fra31/auto-attack/issues/51).
"""

from __future__ import annotations

import functools
import logging
import types
import weakref
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv.models.structure import layers_of, once_per_model

LOG = logging.getLogger(__name__)
HALF = ("float16", "bfloat16")
_TOLERANCE = 0.1  # of a logit, relative to the largest one: how far a twin may be from its model in half precision
_PROBED = 4  # random images on which a twin is compared with its model
_NOT_COPIED = ("build", "quantize")  # set by Keras on each layer, and bound to it
_OWN_GRADIENT: weakref.WeakSet = weakref.WeakSet()  # see `use_own_gradient`


def needs_twin(model: Any) -> bool:
    """Whether any layer computes in half precision or in float8, unless `use_own_gradient` was called for the model."""
    return model not in _OWN_GRADIENT and any(map(_computes_in_half_precision, layers_of(model)))


def _computes_in_half_precision(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.Model) and is_functional(layer):  # its layers compute in their own precision
        return any(getattr(operation, "dtype", None) in HALF for operation in _casts_of(layer))
    if isinstance(layer, keras.layers.InputLayer):
        return layer.dtype in HALF
    return layer.compute_dtype in HALF or layer.quantization_mode == "float8"


def _casts_of(model: keras.Model) -> list[Any]:
    operations = getattr(getattr(model, "_functional", model), "operations", [])
    return [operation for operation in operations if not isinstance(operation, keras.Layer)]


def use_own_gradient(model: keras.Model) -> None:
    """The gradient of this model is taken as it is: somebody chose to train or to search in bfloat16."""
    _OWN_GRADIENT.add(model)


def is_quantized(model: Any) -> bool:
    """Whether `model.quantize` has replaced the weights of any layer, as by int8; these can't be trained any more."""
    return any(layer.quantization_mode is not None for layer in layers_of(model))


def float32_twin(model: Any) -> Any:
    """A model that computes the same function of the same variables in float32.

    No variable is copied, so that the twin changes with the model, and nothing of the model is touched.  A layer that
    is quantized to integers stays so, with float32 around it: Keras passes the gradient straight through its rounding.

    Args:
      model: a callable; a Keras model, functional, sequential or subclassed, may have layers of any precision.

    Returns:
      The twin; `model` itself where it computes in float32 already; None where it can't be copied, because its own code
      casts to half precision.
    """
    return _checked_twin(model) if needs_twin(model) else model


def copy_of(model: keras.Model) -> keras.Model:
    """A model of other layers with the same variables: what is done to its layers does not concern those of `model`."""
    return _Copier(_same_policy)(model)


def without_activation(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer that shares its variables and has a linear activation."""
    copy = _Copier(_same_policy)(layer)
    copy.__dict__["activation"] = keras.activations.linear
    return copy


@once_per_model
def _checked_twin(model: keras.Model) -> keras.Model | None:
    """The twin, or None where it does not compute what the model does, or not in float32."""
    try:
        with tf.init_scope():  # the first gradient may be asked for inside a tf.function
            twin = _Copier(_float32_policy)(model)
            if _is_float32_copy(twin, model):
                return twin
        reason = "its own code computes in half precision"
    except Exception as error:  # whatever a subclassed model raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    LOG.warning(
        "%s computes in half precision, and no float32 copy of it can be made (%s). Its gradient may vanish: the "
        "accuracy under attack is an upper bound. Rebuild the model in float32 and load its weights for a better one.",
        model.name,
        reason,
    )
    return None


def _same_policy(layer: keras.layers.Layer) -> keras.DTypePolicy:
    return layer.dtype_policy


def _float32_policy(layer: keras.layers.Layer) -> keras.DTypePolicy:
    """The policy of a layer with float32 in place of half precision."""
    mode = layer.quantization_mode
    if mode in (None, "float8"):
        return _ComputesInFloat32(layer.variable_dtype)
    return keras.dtype_policies.get(f"{layer.dtype_policy.name.split('_from_')[0]}_from_float32")


class _ComputesInFloat32(keras.DTypePolicy):
    """Computes in float32 with variables of any precision, which Keras casts where the two differ."""

    def __init__(self, variable_dtype: str) -> None:
        super().__init__("float32")
        self._variable_dtype = variable_dtype


def _is_float32_copy(twin: keras.Model, model: keras.Model) -> bool:
    """Whether a twin computes what the model does, and no operation of it returns half precision."""
    shape = getattr(model, "input_shape", None) or (model.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, (tuple, list)) or not shape or isinstance(shape[0], (tuple, list)):
        return True  # nothing to try it on
    sides = [32 if size is None else size for size in shape[1:]]
    images = tf.constant(np.random.default_rng(0).uniform(size=(_PROBED, *sides)), tf.float32)
    own, copied = (np.asarray(tf.cast(m(images, training=False), tf.float32)) for m in (model, twin))
    if np.abs(own - copied).max() > _TOLERANCE * max(1.0, np.abs(own).max()):
        return False
    # A partial, because TensorFlow warns of retracing where functions of the same code are traced for many models.
    function = tf.function(functools.partial(twin, training=False), autograph=False)
    return not _has_half_precision(function.get_concrete_function(tf.TensorSpec((None, *sides), tf.float32)).graph)


def _has_half_precision(graph: Any) -> bool:
    """Whether any operation of a graph computes a tensor in half precision; to read variables is no computation."""
    return any(
        tensor.dtype.base_dtype.name in HALF
        and operation.type not in ("ReadVariableOp", "Identity", "Placeholder", "Const")
        for operation in graph.get_operations()
        for tensor in operation.outputs
    )


class _Copier:
    """Copies a layer with all layers inside it, once each; variables and everything else are shared."""

    def __init__(self, policy: Any) -> None:
        """`policy`: function from a layer to the dtype policy of its copy."""
        self._policy = policy
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []

    def __call__(self, value: Any) -> Any:
        """The copy of a layer, of a container of layers, or of a method of a layer; any other value itself."""
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, keras.Model) and is_functional(value):
            return self._remember(value, self._functional(value))
        if isinstance(value, keras.Layer):
            return self._layer(value)
        if isinstance(value, tf.Tensor) and self._policy is _float32_policy and value.dtype.name in HALF:
            return tf.cast(value, tf.float32)  # a constant of a layer, such as the mean of Normalization
        if isinstance(value, (keras.Variable, tf.Tensor, str)):
            return value
        if isinstance(value, dict):
            return self._filled(value, {}, lambda copy: copy.update((key, self(item)) for key, item in value.items()))
        if isinstance(value, list):
            return self._filled(value, [], lambda copy: copy.extend(map(self, value)))
        if isinstance(value, set):
            return self._filled(value, set(), lambda copy: copy.update(map(self, value)))
        if isinstance(value, tuple):
            items = [self(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, keras.Layer):
            return types.MethodType(value.__func__, self(value.__self__))
        if isinstance(value, functools.partial):
            return functools.partial(self(value.func), *self(value.args), **self(value.keywords))
        if type(value).__module__ == "keras.src.utils.tracking":  # which variables and layers a layer has
            return self._attributes(value)
        return value

    def _remember(self, value: Any, copy: Any) -> Any:
        self._kept.append(value)  # its id must not be given to another object
        self._copies[id(value)] = copy
        return copy

    def _filled(self, value: Any, copy: Any, fill: Any) -> Any:
        self._remember(value, copy)  # first, because a container may hold itself
        fill(copy)
        return copy

    def _attributes(self, value: Any) -> Any:
        copy = self._remember(value, object.__new__(type(value)))
        for name, attribute in list(vars(value).items()):
            copy.__dict__[name] = self(attribute)
        return copy

    def _layer(self, layer: keras.Layer) -> keras.Layer:
        copy = self._remember(layer, object.__new__(type(layer)))
        for name, attribute in list(vars(layer).items()):
            if name in _NOT_COPIED or name.startswith("_self_"):  # the latter is how TensorFlow writes checkpoints
                continue
            if name in ("_inbound_nodes", "_outbound_nodes"):  # calls of the layer in the models that it belongs to
                copy.__dict__[name] = []
            else:
                copy.__dict__[name] = self(attribute)
        copy.__dict__["_dtype_policy"] = self._policy(layer)
        return copy

    def _functional(self, model: keras.Model) -> keras.Model:
        """The copy of a functional or sequential model: the same calls of copied layers."""
        inputs, outputs = (t[0] if len(t) == 1 else t for t in (model.inputs, model.outputs))

        def clone(operation: Any) -> Any:
            if isinstance(operation, keras.Layer) and not isinstance(operation, keras.layers.InputLayer):
                return self(operation)
            config = operation.get_config()
            if config.get("dtype") in HALF:  # a cast, or an input
                config["dtype"] = "float32"
            return operation.__class__.from_config(config)

        copy = keras.models.clone_model(keras.Model(inputs, outputs, name=model.name), clone_function=clone)
        copy.__dict__["_dtype_policy"] = self._policy(model)
        return copy


def is_functional(model: keras.Model) -> bool:
    """Whether its graph of layers is known: its `call` is Keras' own."""
    call_of_keras = type(model).call in (keras.Sequential.call, type(_PLAIN).call)
    return call_of_keras and bool(getattr(model, "inputs", None)) and model.built


_INPUT = keras.Input((1,))
_PLAIN = keras.Model(_INPUT, keras.layers.Identity()(_INPUT))  # the class of functional models has no public name
