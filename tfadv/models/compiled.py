"""Functions of a model, compiled once for each model."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfadv.models.accelerate import accelerated
from tfadv.runtime import compilation

_BUILDING = threading.Lock()  # the threads of several devices would otherwise build the same function each


class PerModel:
    """Compiles `function(model, *tensors, **static)` once for each model and keeps it as long as the model lives.

    A `tf.function` per call would trace anew each time, and a table keyed by
    the model itself would keep every model alive.  The first dimension of each
    tensor is left open (numbers of images, of eps); another image size is
    traced anew.  Where `compilation.use_accelerated()`, the function gets the
    model's optimized clone.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """`function`: takes a model, then tensors or nests (tuples) of tensors, then static keyword arguments."""
        self._function = function
        self._compiled: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()

    def __call__(self, model: Any, *arguments: Any, **static: Any) -> Any:
        """Calls the compiled function.

        Args:
          model: a Keras model.
          *arguments: tensors, or (named) tuples of tensors.
          **static: hashable values; each choice of them is compiled separately.

        Returns:
          What the function returns.
        """
        arguments = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        specs = tf.nest.map_structure(_spec, arguments)
        jit_compile, use_clone = compilation.use_xla(), compilation.use_accelerated()
        compiled = self._compiled.setdefault(model, {})
        key = jit_compile, use_clone, specs, *sorted(static.items())
        with _BUILDING:
            if key not in compiled:
                compiled[key] = self._compile(model, specs, static, jit_compile, use_clone)
        return compiled[key](*tf.nest.flatten(arguments))

    def _compile(self, model: Any, specs: Any, static: dict, jit_compile: bool, use_clone: bool) -> Any:
        """The function for one kind of arguments; it does not keep the model alive."""
        clone = accelerated(model) if use_clone else model
        get_model = weakref.ref(model) if clone is model else lambda: clone  # a clone does not hold the model
        # TensorFlow warns of frequent retracing when functions with the same Python code are traced for several
        # models. It tells functions apart by their code object where they have one; a partial has none.
        call = functools.partial(_call, self._function, get_model, specs, static)
        # Without AutoGraph, as in Keras: converting functions that do not need it took most of the time of tracing.
        return tf.function(
            call, input_signature=tf.nest.flatten(specs), jit_compile=jit_compile or None, autograph=False
        )


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec((None, *tensor.shape[1:]) if tensor.shape.rank else (), tensor.dtype)


def _call(
    function: Callable[..., Any], get_model: Callable[[], Any], specs: Any, static: dict, *flat: tf.Tensor
) -> Any:
    return function(get_model(), *tf.nest.pack_sequence_as(specs, flat), **static)


def logits_of(model: Any, x: tf.Tensor) -> tf.Tensor:
    """The logits, float32 (N, K), in inference mode (`training=False`)."""
    return tf.cast(model(x, training=False), tf.float32)


compiled_logits = PerModel(logits_of)
