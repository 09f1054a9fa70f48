"""Logits of any Keras classifier: removes a final softmax or sigmoid, and scales pixels as the model expects.

Attacks need logits, because the gradient of a saturated softmax is zero.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

import keras
import numpy as np

from tfadv.models.expectation import Expectation
from tfadv.models.image_model import image_shape, unwrapped, without_axes
from tfadv.models.twins import is_functional, without_activation

LOG = logging.getLogger(__name__)
OUTPUTS = ("auto", "logits", "probabilities")
_PROBED = 32  # random images that show what the outputs of a model are
_TOLERANCE = 1e-2  # of a sum of probabilities or of a probability in float16
_RANGES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # classifier → its input_range
_ORIGINALS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # classifier → the model that it was made from
_OUTPUTS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # classifier → what that model returns
_TRIED: weakref.WeakSet = weakref.WeakSet()  # classifiers whose outputs for random images are logits


def classifier(
    model: keras.Model,
    input_range: tuple[float, float] = (0.0, 1.0),
    *,
    outputs: str = "auto",
    input_shape: tuple[int, int, int] | None = None,
    quiet: bool = False,
) -> keras.Model:
    """Converts a classifier to a model from images in [0, 1] to logits; predictions stay the same.

        model = keras.models.load_model("mine.keras")
        result = tfadv.evaluate(tfadv.classifier(model, input_range=(0, 255)), images, labels, "pgd", eps=8 / 255)

    The two models share their variables: training one trains the other, which keeps its own head and is saved as usual.
    The size of a perturbation refers to pixels in [0, 1], whatever the range that the model expects.

    A final softmax is removed exactly if it is a layer, an operation or the activation of the last layer, also inside a
    nested model.  A single sigmoid output becomes the logits (0, z) of two classes.  If the softmax is not visible, as
    in the `call` of a subclassed model, the logits are the logarithm of the probabilities, and a warning says what this
    costs.

    Args:
      model: a Keras model from one batch of images (N, H, W, C), (N, H, W) or (N, D) to one output (N, K) or (N, 1); or
        the `tfadv.expectation` of one.
      input_range: the (least, greatest) pixel value that the model expects.
      outputs: what the model returns if this is not visible: "logits" or "probabilities".  "auto" treats outputs as
        probabilities if, on random images, they are in [0, 1] and, for several classes, sum to 1.
      input_shape: (H, W, C), for a subclassed model that was not built yet.
      quiet: whether to log nothing.

    Returns:
      A functional `keras.Model` from float32 images (N, H, W, C) in [0, 1] to float32 logits (N, max(K, 2)); of an
      expectation, one of such a model.  A model of (N, H, W) becomes one of (N, H, W, 1), and one of (N, D) becomes one
      of square images or of (N, D, 1, 1).

    Raises:
      ValueError: the model has several inputs or outputs, does not take images, does not return one row per image, or
        its input shape is unknown.
    """
    low, high = _pair(input_range)
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {', '.join(OUTPUTS)}, got {outputs!r}.")
    if unwrapped(model) is not model:
        return unwrapped(model)
    if isinstance(model, Expectation):
        each = classifier(model.model, input_range, outputs=outputs, input_shape=input_shape, quiet=quiet)
        converted = Expectation(each, model.samples, name=model.name)
        _ORIGINALS[converted], _OUTPUTS[converted] = model, _OUTPUTS[each]
        return converted
    functional = _functional(model, input_shape)
    _check_shapes(functional)
    images = _random_images(functional, input_shape, low, high)
    raw, activation = _without_activation(functional.outputs[0]) if outputs != "logits" else (functional.outputs[0], "")
    if activation and not _is_exact(functional, keras.Model(functional.inputs[0], raw), images):
        raw, activation = functional.outputs[0], ""  # a layer of another kind, which only looks like a softmax
    if activation:
        message = f"{model.name}: the final {activation} is removed."
    elif outputs == "probabilities" or (outputs == "auto" and _returns_probabilities(functional, images)):
        message = (
            f"{model.name} returns probabilities, but its softmax is not visible. The logits are their logarithm. "
            "The gradients vanish for confident predictions, and the model looks more robust than it is. To avoid "
            "this, return the logits from the model."
        )
        raw = _LogProbabilities(name="log_probabilities")(raw)
    else:
        message = ""
    of_columns = "sigmoid" if raw.shape[-1] == 1 else "softmax"
    returns = (activation or of_columns if message else "logits", raw.shape[-1])
    if message and not quiet:
        LOG.log(logging.INFO if activation else logging.WARNING, "%s", message)
    if raw.shape[-1] == 1:
        raw = _TwoLogits(name="two_logits")(raw)
    if raw.dtype != "float32":
        raw = keras.layers.Activation("linear", dtype="float32", name="float32_logits")(raw)
    converted, shape = keras.Model(functional.inputs[0], raw, name=functional.name), functional.inputs[0].shape[1:]
    if (low, high) != (0.0, 1.0) or len(shape) != 3:
        images = own = keras.Input(image_shape(shape), dtype="float32")
        if (low, high) != (0.0, 1.0):
            own = keras.layers.Rescaling(high - low, low, name="input_range", dtype="float32")(own)
        converted = keras.Model(images, converted(without_axes(own, shape)), name=functional.name)
    _ORIGINALS[converted], _RANGES[converted] = model, (low, high)
    _OUTPUTS[converted] = returns
    if outputs != "logits":
        _TRIED.add(converted)
    return converted


def check_logits(model: Any) -> None:
    """Raises ValueError where the model, or that of an expectation, ends in a visible softmax."""
    if isinstance(model, Expectation):
        model = model.model
    last = _last_operation(model)
    if _activation(last) == "softmax" and model not in _TRIED:  # a layer may use its softmax elsewhere than at the end
        raise ValueError(
            f"the model ends in a softmax ({last.name}): attacks need logits, because the gradient of a "
            "saturated softmax is zero and the model only looks robust. Attack tfadv.classifier(model) instead."
        )


def _last_operation(model: Any, index: int = 0) -> Any:
    """What computes an output of a model, also inside a nested one; of a subclassed model, its last layer if any."""
    if not isinstance(model, keras.Model) or not is_functional(model):
        return (getattr(model, "layers", None) or [None])[-1]
    operation, node, index = model.outputs[index]._keras_history
    while _is_linear(operation):
        operation, node, index = operation._inbound_nodes[node].input_tensors[0]._keras_history
    nested = isinstance(operation, keras.Model) and is_functional(operation)  # of others, only their code tells
    return _last_operation(operation, index) if nested else operation


def outputs_of(converted: keras.Model, logits: Any) -> Any:
    """What the model that `classifier` was called with returns, from the logits (N, K) of the converted one."""
    kind, columns = _OUTPUTS[converted]
    if columns == 1:
        logits = logits[:, 1:]  # of (0, z)
    return logits if kind == "logits" else keras.activations.get(kind)(logits)


def input_range_of(model: Any) -> tuple[float, float]:
    """The (least, greatest) pixel value that the model expects which `classifier` was called with; else (0, 1).

    That of an expectation is that of its model; see also `set_input_range`.
    """
    model = unwrapped(model)
    if isinstance(model, Expectation):
        return input_range_of(model.model)
    return _RANGES.get(model, (0.0, 1.0)) if isinstance(model, keras.Model) else (0.0, 1.0)


def set_input_range(model: keras.Model, input_range: tuple[float, float]) -> None:
    """Makes `input_range_of` return this for a model that is made of classifiers."""
    _RANGES[model] = input_range


def _pair(input_range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, input_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"input_range must be the pair (least, greatest) pixel value, such as (0, 255): got {input_range}."
        )
    return low, high


def original(model: keras.Model) -> keras.Model:
    """The model that `classifier` was called with; `model` itself if `classifier` did not create it."""
    return _ORIGINALS.get(model, model)


def _functional(model: keras.Model, input_shape: tuple[int, int, int] | None) -> keras.Model:
    """The model itself as a functional one, or a functional model that calls it."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model, got {type(model).__name__}.")
    try:
        if not is_functional(model):  # also a functional one whose class has a `call` of its own
            raise ValueError
        inputs, outputs = (t[0] if len(t) == 1 else t for t in (model.inputs, model.outputs))
        return keras.Model(inputs, outputs, name=model.name)
    except (AttributeError, ValueError, TypeError):  # subclassed, or not built yet
        pass
    shape = input_shape
    if shape is None:
        built = (model.get_build_config() or {}).get("input_shape")
        if not built or isinstance(built, dict) or len(built) not in (2, 3, 4):
            raise ValueError(
                f"the input shape of {model.name} is unknown: call it once on a batch of images, or give input_shape."
            )
        shape = tuple(built[1:])
    images = keras.Input(shape)
    return keras.Model(images, model(images), name=model.name)


def _check_shapes(model: keras.Model) -> None:
    if len(model.inputs) != 1:
        names = ", ".join(f"{tensor.name} {tuple(tensor.shape[1:])}" for tensor in model.inputs)
        raise ValueError(
            f"{model.name} has {len(model.inputs)} inputs ({names}), and attacks change one, the image. Fix the "
            "others: image = keras.Input(shape_of_image); outputs = model([image, fixed_value]); "
            "tfadv.classifier(keras.Model(image, outputs))."
        )
    if len(model.outputs) != 1:
        raise ValueError(
            f"{model.name} has {len(model.outputs)} outputs. Choose that of the classes: "
            "tfadv.classifier(keras.Model(model.inputs, model.outputs[0]))."
        )
    given, returned = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if not keras.backend.is_float_dtype(model.inputs[0].dtype):
        raise ValueError(
            f"{model.name} takes {model.inputs[0].dtype} images, which have no gradient: build it on float32 images."
        )
    image_shape(given[1:])
    if len(given) == 4 and given[-1] is None:
        raise ValueError(f"{model.name} takes images {given}: the number of channels, the last axis, must be known.")
    if len(returned) != 2 or returned[-1] is None:
        raise ValueError(f"{model.name} must return one row of outputs per image, (N, K); it returns {returned}.")


def _without_activation(output: keras.KerasTensor) -> tuple[keras.KerasTensor, str]:
    """The tensor before a final softmax or sigmoid, and the name of that activation; "" where there is none."""
    operation, node, index = output._keras_history
    (inputs, *_) = operation._inbound_nodes[node].input_tensors or (None,)
    if isinstance(operation, keras.Model):
        if not hasattr(operation, "outputs"):  # subclassed
            return output, ""
        inner, activation = _without_activation(operation.outputs[index])
        if activation:
            return keras.Model(operation.inputs[0], inner, name=operation.name)(inputs), activation
        return output, ""
    activation = _activation(operation)
    if activation and hasattr(operation, "kernel"):
        return _WithoutActivation(operation)(inputs), activation
    if activation:
        return inputs, activation
    if _is_linear(operation):
        before, activation = _without_activation(inputs)
        return (operation(before), activation) if activation else (output, "")
    return output, ""


def _activation(operation: Any) -> str:
    """The softmax over the classes or the sigmoid that an operation ends with, or ""."""
    function = getattr(operation, "activation", operation)
    if function is keras.activations.softmax:
        return "softmax"
    if function is keras.activations.sigmoid:
        return "sigmoid"
    name = type(function).__name__  # keras.layers.Softmax, keras.ops.softmax and keras.ops.sigmoid
    return name.lower() if name == "Sigmoid" or (name == "Softmax" and getattr(function, "axis", -1) in (-1, 1)) else ""


def _is_linear(operation: Any) -> bool:
    """Whether it returns what it gets, such as a cast to float32 after the softmax."""
    of_kind = type(operation) in (keras.layers.Activation, keras.layers.Identity, keras.layers.Dropout)
    return of_kind and getattr(operation, "activation", keras.activations.linear) is keras.activations.linear


def _random_images(model: keras.Model, input_shape: tuple[int, int, int] | None, low: float, high: float) -> np.ndarray:
    given = input_shape or (32, 32, 3)
    shape = [size or own for size, own in zip(model.inputs[0].shape[1:], given)]
    return np.random.default_rng(0).uniform(low, high, (_PROBED, *shape)).astype("float32")


def _returns_probabilities(model: keras.Model, images: np.ndarray) -> bool:
    values = _outputs(model, images)
    if not ((values >= 0) & (values <= 1)).all():
        return False
    return values.shape[1] == 1 or bool(np.allclose(values.sum(axis=1), 1, atol=_TOLERANCE))


def _is_exact(model: keras.Model, without: keras.Model, images: np.ndarray) -> bool:
    """Whether the outputs are the softmax, or the sigmoid, of the outputs without it."""
    expected, logits = _outputs(model, images), _outputs(without, images)
    if logits.shape != expected.shape:
        return False
    sigmoid = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    return any(np.allclose(own, expected, atol=_TOLERANCE) for own in (softmax, sigmoid))


def _outputs(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=False)).astype("float64")


@keras.saving.register_keras_serializable("tfadv")
class _WithoutActivation(keras.layers.Layer):
    """Calls a layer, whose variables it shares, without its activation."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        # Not the layer's own policy: it may be quantized, which this wrapper is not.
        super().__init__(**{"name": f"{layer.name}_logits", "dtype": layer.compute_dtype} | kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs: Any) -> Any:
        if not self.layer.built:  # read from a file
            self.layer.build(inputs.shape)
        return without_activation(self.layer)(
            inputs
        )  # a copy: several threads may call the layer, which stays as it is

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _WithoutActivation:
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self.layer.compute_output_shape(inputs.shape), self.compute_dtype)


@keras.saving.register_keras_serializable("tfadv")
class _TwoLogits(keras.layers.Layer):
    """One logit z → the logits (0, z) of two classes."""

    def call(self, z: Any) -> Any:
        return keras.ops.concatenate([keras.ops.zeros_like(z), z], axis=-1)


@keras.saving.register_keras_serializable("tfadv")
class _LogProbabilities(keras.layers.Layer):
    """Probabilities → logits: their logarithm, or for one probability p, log(p / (1 - p))."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32"} | kwargs)

    def call(self, p: Any) -> Any:
        tiny = np.finfo(np.float32).tiny
        log = keras.ops.log(keras.ops.maximum(p, tiny))
        return log - keras.ops.log(keras.ops.maximum(1 - p, tiny)) if p.shape[-1] == 1 else log
