"""Parts of every gradient attack: the gradient of a loss at the images, and the check of an attack's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv import specs
from tfadv.attacks import losses
from tfadv.attacks.norms import COUNTS, choose
from tfadv.errors import UserError
from tfadv.models.compiled import PerModel, compiled_logits, logits_of
from tfadv.models.expectation import Expectation
from tfadv.models.logits import check_logits

__all__ = ["check_inputs", "compiled_logits", "is_adversarial", "logits_and_gradient", "logits_of", "sign"]

_TOLERANCE = 1e-6  # images that were normalised and scaled back miss 0 and 1 by rounding


def logits_and_gradient(
    model: Any,
    x: tf.Tensor,
    y: tf.Tensor,
    target: tf.Tensor | None = None,
    loss: Callable[..., tf.Tensor] = losses.cross_entropy,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The logits, and the gradient of the summed loss at the images.

    The loss is summed and not averaged, so that the gradient of one image does not depend on the others.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).  The gradient of a model in half precision is that of
        its float32 twin, see `logits_of`.
      x: float32 (N, H, W, C).
      y: int (N,).
      target: int (N,), or None where `loss` needs none.
      loss: a function like those in `losses.LOSSES`.

    Returns:
      (float32 (N, K), float32 (N, H, W, C)).  The gradient is 0 where the loss does not depend on the image.  Of a
      `tfadv.expectation`, both are means over its passes.
    """
    if isinstance(model, Expectation):

        def one_pass() -> tuple[tf.Tensor, tf.Tensor]:
            logits, gradient = logits_and_gradient(model.model, x, y, target, loss)
            return tf.nn.softmax(logits), gradient

        return model.mean(one_pass)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_of(model, x)
        total = tf.reduce_sum(loss(logits, y, target))
    return logits, tape.gradient(total, x, unconnected_gradients="zero")


def is_adversarial(logits: tf.Tensor, y: tf.Tensor, targeted: bool | tf.Tensor = False) -> tf.Tensor:
    """bool (N,): y is not predicted or, where `targeted`, it is predicted; never True where a logit is NaN."""
    valid = ~tf.reduce_any(tf.math.is_nan(logits), axis=1)
    return valid & tf.equal(tf.argmax(logits, axis=1) == y, targeted)


def sign(gradient: tf.Tensor) -> tf.Tensor:
    """The sign: -1, 0 or 1; 0 where the gradient is NaN, so that the pixel stays instead of becoming NaN."""
    return tf.sign(choose(tf.math.is_nan(gradient), tf.zeros_like(gradient), gradient))


def sizes_of(eps: Any) -> list[float]:
    """The sizes of a perturbation.

    Args:
      eps: a number >= 0, a text such as "8/255" or "0.03", or a sequence of these.

    Returns:
      E numbers.

    Raises:
      ValueError: it is something else.
    """
    try:
        values = [eps] if isinstance(eps, str) or np.ndim(eps) == 0 else list(eps)
        sizes = [specs.number(value) if isinstance(value, str) else float(value) for value in values]
        sizes = [] if any(isinstance(value, (bool, np.bool_)) for value in values) else sizes
    except (TypeError, ValueError, UserError):
        sizes = []
    if not sizes or not all(e >= 0 and math.isfinite(e) for e in sizes):
        raise ValueError(f"eps must be one or several finite numbers >= 0, such as 0.03 or 8 / 255, got {eps}.")
    return sizes


def largest_distance(clip: tuple[float, float], norm: str, shape: Sequence[int]) -> float:
    """The distance of the two images that are furthest apart; arguments as for `check_sizes`."""
    span, values = clip[1] - clip[0], math.prod(shape)
    farthest = {"linf": span, "l2": span * math.sqrt(values), "l1": span * values}
    return {**farthest, "l0": float(values), "pixels": float(math.prod(shape[:2]))}[norm]


def check_sizes(sizes: Sequence[float], clip: tuple[float, float], norm: str, shape: Sequence[int]) -> None:
    """Checks that sizes of perturbations are in the units of the images.

    Args:
      sizes: sizes of perturbations.
      clip: (least, greatest) value of a pixel.
      norm: a key of `tfadv.attacks.norms.DISTANCES`.
      shape: (H, W, C).

    Raises:
      ValueError: one of them is larger than the distance of any two images.
    """
    low, high = clip
    largest = largest_distance((low, max(high, low + 1)), norm, shape)
    if max(sizes) > largest and norm in COUNTS:
        raise ValueError(f"eps must be at most {largest:g}, the {COUNTS[norm]} of an image; got {max(sizes):g}.")
    if max(sizes) > largest * (1 + _TOLERANCE):
        levels = f" If you mean {max(sizes):g} of 255 levels, write eps={max(sizes):g} / 255."
        raise ValueError(
            f"eps must be at most {largest:g}, because pixels are from {low:g} to {high:g}; got {max(sizes):g}."
            f"{levels if 2 <= max(sizes) <= 128 else ''}"
        )


def check_inputs(
    model: Any,
    x: Any,
    y: Any,
    eps: float | Sequence[float],
    clip: tuple[float, float],
    norm: str = "linf",
    *,
    limited: bool = True,
    logits: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Checks the inputs of an attack and converts them to tensors.

    Args:
      model, x, y, eps, clip: as the attack got them.
      norm: a key of `tfadv.attacks.norms.DISTANCES`, in which eps is measured.
      limited: whether eps must not exceed the distance of any two images.
      logits: whether a model that ends in a softmax is refused.

    Returns:
      x float32 (N, H, W, C), y int64 (N,), eps float32 (E,).

    Raises:
      ValueError: naming the argument and what it should have been.
    """
    low, high = clip
    if not low < high:
        raise ValueError(f"clip must be (least, greatest), got {clip}.")
    sizes = sizes_of(eps)
    if limited:
        check_sizes(sizes, clip, norm, np.shape(x)[1:])
    if getattr(x, "dtype", None) not in (np.float32, tf.float32):
        raise ValueError(
            f"x must be float32 images in [{low}, {high}], got {getattr(x, 'dtype', type(x))}: "
            "pass x.astype('float32'), and for uint8 images x.astype('float32') / 255."
        )
    x = tf.convert_to_tensor(x)
    expected = _image_shape(model)
    if x.shape.rank != 4 or not tf.TensorShape(expected).is_compatible_with(x.shape[1:]):
        raise ValueError(f"x must have the shape (N, {', '.join(map(str, expected))}), got {tuple(x.shape)}.")
    y = _class_numbers(y)
    if y.shape.rank != 1 or not y.shape.is_compatible_with(x.shape[:1]):
        raise ValueError(f"y must be one class number per image, shape ({x.shape[0]},); got shape {tuple(y.shape)}.")
    if tf.executing_eagerly() and tf.size(x):  # inside a tf.function the values are not known yet
        _check_values(model, x, y, low, high)
    if logits:
        check_logits(model)
    return x, y, tf.constant(sizes, tf.float32)


def _class_numbers(y: Any) -> tf.Tensor:
    """int64, of whole numbers of any type; raises ValueError for others."""
    y = tf.convert_to_tensor(y)
    if y.dtype == tf.string:
        raise ValueError("y must be class numbers, got texts.")
    if y.dtype.is_floating and tf.executing_eagerly() and not bool(tf.reduce_all(y == tf.floor(y))):
        raise ValueError("y must be class numbers, got numbers with decimals.")
    return tf.cast(y, tf.int64)


def _image_shape(model: Any) -> tuple[int | None, ...]:
    shape = getattr(model, "input_shape", (None,) * 4)  # a subclassed model need not have one
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(f"the model must take one batch of images (N, H, W, C); its input_shape is {shape}.")
    return shape[1:]


def _check_values(model: Any, x: tf.Tensor, y: tf.Tensor, low: float, high: float) -> None:
    least, greatest = float(tf.reduce_min(x)), float(tf.reduce_max(x))
    if not (low - _TOLERANCE <= least and greatest <= high + _TOLERANCE):
        raise ValueError(f"x must be in [{low}, {high}], got values from {least:g} to {greatest:g}.")
    classes = _number_of_classes(model, x)
    if classes == 1:
        raise ValueError(
            "the model must return a logit for each class, two for two classes; it returns one: "
            "attack tfadv.classifier(model) instead."
        )
    if not 0 <= int(tf.reduce_min(y)) <= int(tf.reduce_max(y)) < classes:
        raise ValueError(f"y must be class numbers from 0 to {classes - 1}.")


def _number_of_classes(model: Any, x: tf.Tensor) -> float:
    """K of a model that returns (N, K); infinite where there is no model.

    Raises:
      ValueError: the model returns something else.
    """
    if model is None:
        return math.inf
    shape, outputs = getattr(model, "output_shape", None), getattr(model, "output", None)
    # Only a call tells what a subclassed model returns, and whether the list of one output of a clone is a list.
    if shape is None or shape[-1] is None or tf.nest.is_nested(outputs):
        outputs = model(x[:1], training=False)
        shape = tf.nest.map_structure(lambda each: tuple(each.shape), outputs)
    if tf.nest.is_nested(outputs):
        raise ValueError(
            f"the model must return one tensor of logits, (N, K); it returns a list or dict of {shape}: give the "
            "output of the classes alone, such as tfadv.classifier(keras.Model(model.inputs, model.outputs[0]))."
        )
    if len(shape) != 2:
        raise ValueError(f"the model must return one row of logits per image, (N, K); it returns {shape}.")
    return shape[-1]


def _has_gradient(model: Any, x: tf.Tensor, y: tf.Tensor, *, loss: str) -> tf.Tensor:
    """bool (N,): whether the gradient at the image is finite in all pixels and not 0 in some."""
    _, gradient = logits_and_gradient(model, x, y, loss=losses.LOSSES[loss])
    size = tf.abs(gradient)
    return tf.reduce_any(size > 0, axis=(1, 2, 3)) & tf.reduce_all(tf.math.is_finite(size), axis=(1, 2, 3))


compiled_has_gradient = PerModel(_has_gradient)
