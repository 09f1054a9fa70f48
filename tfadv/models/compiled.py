"""Functions of a model, compiled once for each model."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfadv.models.accelerate import accelerated
from tfadv.models.structure import layers_of, structure
from tfadv.models.twins import float32_twin
from tfadv.runtime import compilation

_SCALE = 2.0**8  # of the gradient at the logits, from one attempt to find a gradient that is not 0 to the next
_MOST_SCALES = 5
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
        key = jit_compile, use_clone, structure(model), specs, *sorted(static.items())
        with _BUILDING:
            if key not in compiled:
                compiled[key] = self._compile(model, specs, static, jit_compile, use_clone)
        try:
            return compiled[key](*tf.nest.flatten(arguments))
        except tf.errors.OpError:
            raise_failure_of(model)
            raise

    def _compile(self, model: Any, specs: Any, static: dict, jit_compile: bool, use_clone: bool) -> Any:
        """The function for one kind of arguments; it does not keep the model alive."""
        clone = accelerated(model) if use_clone else model
        get_model = weakref.ref(model) if clone is model else lambda: clone  # a clone does not hold the model
        # TensorFlow warns of frequent retracing when functions with the same Python code are traced for several
        # models. It tells functions apart by their code object where they have one; a partial has none.
        call = functools.partial(_call, self._function, get_model, specs, static)
        # Without AutoGraph, as in Keras: converting functions that do not need it took most of the time of tracing.
        jit_compile = jit_compile and not deployed_layers(model)  # XLA can't call Python
        return tf.function(
            call, input_signature=tf.nest.flatten(specs), jit_compile=jit_compile or None, autograph=False
        )


def raise_failure_of(model: Any) -> None:
    """Raises, as a line for people, what went wrong in the last call of a deployed model, if anything did."""
    for layer in deployed_layers(model):
        failure = layer.failure_of_deployed()
        if failure:
            raise failure from None


def deployed_layers(model: Any) -> list[Any]:
    """Those of `tfadv.deployed`, which run outside of TensorFlow."""
    return [layer for layer in layers_of(model) if hasattr(layer, "failure_of_deployed")]


def returns_labels(model: Any) -> bool:
    """Whether it is a deployed model that returns the number of a class, and no scores."""
    return any(layer.returns == "labels" for layer in deployed_layers(model))


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec((None, *tensor.shape[1:]) if tensor.shape.rank else (), tensor.dtype)


def _call(
    function: Callable[..., Any], get_model: Callable[[], Any], specs: Any, static: dict, *flat: tf.Tensor
) -> Any:
    return function(get_model(), *tf.nest.pack_sequence_as(specs, flat), **static)


def logits_of(model: Any, x: tf.Tensor) -> tf.Tensor:
    """The logits in inference mode (`training=False`); their gradient at the images is computed in float32.

    A model that computes in half precision predicts as it is, and its float32 twin gives the gradient (see
    `tfadv.models.twins`).  Where it has no twin, the gradient of a row that underflows is computed again, scaled up.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C).

    Returns:
      float32 (N, K).
    """
    twin = float32_twin(model)
    if twin is model:
        return tf.cast(model(x, training=False), tf.float32)

    @tf.custom_gradient
    def own_logits(x: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
            at_images = _scaled_gradient(model, x, upstream) if twin is None else _gradient(twin, x, upstream)
            return at_images if variables is None else (at_images, [None] * len(variables))

        return tf.cast(model(x, training=False), tf.float32), gradient

    return own_logits(x)


def _gradient(model: Any, x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The gradient at the images, float32 (N, H, W, C), where that at the logits is `upstream`, float32 (N, K)."""
    fast = accelerated(model) if compilation.use_accelerated() else model
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = tf.cast(fast(x, training=False), tf.float32)
    return tape.gradient(logits, x, output_gradients=upstream, unconnected_gradients="zero")


def _scaled_gradient(model: Any, x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """See `_gradient`; of a row whose gradient is 0, that of larger and larger multiples of `upstream`."""

    def is_zero(found: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(found == 0, tf.range(1, tf.rank(found)), keepdims=True)

    def again(attempts: tf.Tensor, found: tf.Tensor) -> Any:
        scale = tf.pow(_SCALE, tf.cast(attempts + 1, tf.float32))
        larger = _gradient(model, x, upstream * scale) / scale
        finite = tf.reduce_all(tf.math.is_finite(larger), tf.range(1, tf.rank(found)), keepdims=True)
        return attempts + 1, tf.where(is_zero(found) & finite, larger, found)

    def unfinished(attempts: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return (attempts < _MOST_SCALES) & tf.reduce_any(is_zero(found))

    return tf.while_loop(unfinished, again, (tf.constant(0), _gradient(model, x, upstream)))[1]


compiled_logits = PerModel(logits_of)
