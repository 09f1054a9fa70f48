"""What every gradient attack is made of: the loss, its gradient at the image, and the check of its arguments."""

import math
import weakref

import keras
import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.norms import BALLS
from tfadv.errors import check_name
from tfadv.models.accelerate import accelerated

_TOLERANCE = 1e-6  # images that were normalised and brought back miss 0 and 1 by rounding


def xla(choice="auto"):
    """bool: whether to compile with XLA; "auto" is yes on a GPU and no on a CPU, where oneDNN is far faster."""
    if choice == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return choice == "true"


def logits_of(model, x):
    """float32 (N, K), as at test time."""
    return tf.cast(model(x, training=False), tf.float32)


def logits_and_gradient(model, x, y, target=None, loss=losses.cross_entropy):
    """The logits, and the gradient of the summed loss at the images.

    Summed, not averaged, so that the gradient of one image does not depend on the others.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C).
      y: int (N,).
      target: int (N,), or None where `loss` needs none.
      loss: one of `losses.LOSSES`.

    Returns:
      (float32 (N, K), float32 (N, H, W, C)).  The gradient is 0 where the loss does not depend on the image.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        logits = logits_of(model, x)
        total = tf.reduce_sum(loss(logits, y, target))
    return logits, tape.gradient(total, x, unconnected_gradients="zero")


def is_broken(logits, y, targeted=False):
    """bool (N,): whether the attack has won: y is not predicted, or, `targeted`, it is; never where a logit is NaN."""
    sane = ~tf.reduce_any(tf.math.is_nan(logits), axis=1)
    return sane & tf.equal(tf.argmax(logits, axis=1) == y, targeted)


def sign(gradient):
    """The sign, -1, 0 or 1; 0 where the gradient is NaN, so that the pixel stays instead of becoming NaN."""
    return tf.sign(tf.where(tf.math.is_nan(gradient), 0.0, gradient))


class PerModel:
    """Compiles `function(model, *tensors)` once for each model, accelerated, and keeps it as long as the model lives.

    A `tf.function` per call would trace anew each time, and a table keyed by
    the model itself would keep every model for ever.  The first dimension of
    each tensor (images, sizes of eps) is left open; another image size is
    traced anew.  `static` are keyword arguments of the function, each choice of
    which is a function of its own.
    """

    def __init__(self, function):
        self._function = function
        self._compiled = weakref.WeakKeyDictionary()

    def __call__(self, model, *tensors, jit_compile, **static):
        tensors = [tf.convert_to_tensor(t) for t in tensors]
        specs = tuple(tf.TensorSpec((None, *t.shape[1:]) if t.shape.rank else (), t.dtype) for t in tensors)
        kept = self._compiled.setdefault(model, {})
        key = jit_compile, (specs, *sorted(static.items()))
        if key not in kept:
            twin = accelerated(model)
            reference = weakref.ref(model) if twin is model else lambda: twin  # the twin does not hold the model
            kept[key] = tf.function(
                lambda *args: self._function(reference(), *args, **static),
                input_signature=specs,
                jit_compile=jit_compile or None,
            )
        return kept[key](*tensors)


compiled_logits = PerModel(logits_of)


def limits(clip):
    """The two ends of `clip` as float32 ()."""
    return [tf.constant(limit, tf.float32) for limit in clip]


def check(model, x, y, eps, clip, *, norm="linf", **counts):
    """Checks an attack's arguments and turns them into tensors.

    Args:
      model, x, y, eps, clip, norm: as the attack was given them.
      **counts: numbers of steps, restarts and the like: int >= 1.

    Returns:
      x float32 (N, H, W, C), y int64 (N,), eps float32 (E,).

    Raises:
      ValueError: naming the argument and what it should have been.
      UserError: no such norm.
    """
    check_name("norm", norm, BALLS)
    for name, count in counts.items():
        if count != int(count) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count}.")
    low, high = clip
    if not low < high:
        raise ValueError(f"clip must be (least, greatest), got {clip}.")
    sizes = np.atleast_1d(np.asarray(eps, np.float32))
    if sizes.ndim != 1 or not sizes.size or not all(e >= 0 and math.isfinite(e) for e in sizes):
        raise ValueError(f"eps must be one or several finite numbers >= 0, got {eps}.")
    if getattr(x, "dtype", None) not in (np.float32, tf.float32):
        raise ValueError(
            f"x must be float32 images in [{low}, {high}], got {getattr(x, 'dtype', type(x))}: "
            "pass x.astype('float32'), and for uint8 images x.astype('float32') / 255."
        )
    x = tf.convert_to_tensor(x)
    takes = getattr(model, "input_shape", (None,) * 4)  # a subclassed model need not say
    if not isinstance(takes, tuple) or len(takes) != 4:
        raise ValueError(f"the model must take one batch of images (N, H, W, C); its input_shape is {takes}.")
    expected = takes[1:]
    if x.shape.rank != 4 or not tf.TensorShape(expected).is_compatible_with(x.shape[1:]):
        raise ValueError(f"x must have the shape (N, {', '.join(map(str, expected))}), got {tuple(x.shape)}.")
    y = tf.cast(tf.convert_to_tensor(y), tf.int64)
    if y.shape.rank != 1 or not y.shape.is_compatible_with(x.shape[:1]):
        raise ValueError(f"y must be class numbers, one an image, shape ({x.shape[0]},); got shape {tuple(y.shape)}.")
    if tf.executing_eagerly() and tf.size(x):  # inside a tf.function the values are not known yet
        least, greatest = float(tf.reduce_min(x)), float(tf.reduce_max(x))
        if not (low - _TOLERANCE <= least and greatest <= high + _TOLERANCE):
            raise ValueError(f"x must be in [{low}, {high}], got values from {least:g} to {greatest:g}.")
        classes = getattr(model, "output_shape", (None, math.inf))[-1]
        if classes == 1:
            raise ValueError("the model must return a logit for each class, two for two classes; it returns one.")
        if not 0 <= int(tf.reduce_min(y)) <= int(tf.reduce_max(y)) < classes:
            raise ValueError(f"y must be class numbers from 0 to {classes - 1}.")
    last = (getattr(model, "layers", None) or [None])[-1]
    if getattr(last, "activation", None) is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise ValueError(
            f"the model ends in a softmax ({last.name}): attacks need logits, because the gradient of a "
            "saturated softmax is zero and the model only looks robust. Build it up to the logits."
        )
    return x, y, tf.constant(sizes)
