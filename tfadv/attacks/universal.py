"""One patch for all images, at random places (Brown et al. 2017, https://arxiv.org/abs/1712.09665)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses, randomness
from tfadv.attacks.gradient import check_inputs, logits_and_gradient
from tfadv.attacks.patch import Patch
from tfadv.errors import check_whole_number
from tfadv.models.compiled import PerModel
from tfadv.models.image_model import fitted, image_model

_DECAY = 0.9  # of the momentum
_BATCH = 64


def universal_patch(
    model: Any,
    images: Any,
    labels: Any,
    size: float = 0.05,
    *,
    target: int | None = None,
    steps: int = 500,
    step_size: float = 0.05,
    seed: int = 0,
) -> np.ndarray:
    """A square patch that fools the model on many images, wherever it lies: one that could be printed.

    Each step places the patch on 64 random images at random places, and moves it along the sign of the gradient, with
    momentum, of the mean of log(1 - p) of the true classes, or of log p of the target.  The step size falls linearly.
    Brown et al. also rotate and scale the patch, which this does not.

    Measure it on other images than those that it was made of:

        patch = universal_patch(model, x_val, y_val)
        tfadv.evaluate(model, place(patch, x_test), y_test, attack=None)

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      images: float32 (N, H, W, C) in [0, 1], or uint8.
      labels: int (N,).
      size: the share of an image's area that is covered, above 0 and at most 1; see `Patch.size`.
      target: the class that the model is to answer; None is any but the true one.
      steps: number of steps, at least 1.
      step_size: of the first step, in units of the images, above 0.
      seed: int, for the first content, the order of images, and the places.

    Returns:
      float32 (side, side, C) in [0, 1].

    Raises:
      ValueError: an argument has the wrong type, shape or range, or the model ends in a softmax or has no gradient.
    """
    check_whole_number("steps", steps, 1)
    settings = Patch(size=size, step_size=step_size)  # checks them
    model = image_model(model)
    images = np.asarray(images, np.float32) / 255 if getattr(images, "dtype", None) == np.uint8 else images
    wanted = np.asarray(labels) if target is None else np.full(len(images), target)
    x, y, _ = check_inputs(model, fitted(model, images), wanted, 0.0, (0.0, 1.0))
    if not len(x):
        raise ValueError("a patch is made of one image or more.")
    side, generator = settings.side(tuple(x.shape[1:])), np.random.default_rng(seed)
    patch = generator.random((side, side, x.shape[3]), np.float32)
    velocity, order = np.zeros_like(patch), np.zeros(0, np.int64)
    for step in range(steps):
        while len(order) < min(_BATCH, len(x)):
            order = np.append(order, generator.permutation(len(x)))
        rows, order = order[:_BATCH], order[_BATCH:]
        corners = _corners(generator.random((len(rows), 2)), x.shape, side)
        placed = _placed(patch, tf.gather(x, rows).numpy(), corners)
        gradient = _compiled_gradient(model, placed, tf.gather(y, rows), targeted=target is not None).numpy()
        total = np.nan_to_num(gradient[_window(corners, side)]).sum(axis=0)
        if step == 0 and not total.any():
            raise ValueError("the gradient of the model is zero at these images: no patch can be made of it.")
        velocity = _DECAY * velocity + total / max(float(np.abs(total).sum()), 1e-12)
        patch = np.clip(patch + step_size * (1 - step / steps) * np.sign(velocity), 0, 1).astype(np.float32)
    return patch


def place(patch: np.ndarray, images: Any, seed: int = 0) -> np.ndarray:
    """The images with the patch, each at a random place, which depends on the seed and the number of the image.

    Args:
      patch: float32 (side, side, C) in [0, 1], as `universal_patch` returns it.
      images: float32 (N, H, W, C) in [0, 1], or uint8.
      seed: int.

    Returns:
      In the shape and type of the images.

    Raises:
      ValueError: the patch does not fit into the images, or pixels are neither in [0, 1] nor uint8.
    """
    images, patch = np.asarray(images), np.asarray(patch)
    shape = images.shape
    if images.ndim != 4 or patch.ndim != 3 or patch.shape[2] != shape[3] or max(patch.shape[:2]) > min(shape[1:3]):
        raise ValueError(f"a patch of shape {patch.shape} does not fit into images of shape {shape}.")
    if images.dtype != np.uint8:
        check_inputs(None, images, np.zeros(len(images), np.int64), 0.0, (0.0, 1.0), logits=False)
    else:
        patch = np.round(255 * patch).astype(np.uint8)
    rounds = np.zeros(len(images), np.int32)
    numbers = [each.random(2) for each in randomness.generators(seed, randomness.START, np.arange(len(images)), rounds)]
    return _placed(patch, images, _corners(np.reshape(numbers, (-1, 2)), shape, len(patch)))


def _corners(numbers: np.ndarray, shape: Any, side: int) -> np.ndarray:
    """int (N, 2), row and column, from numbers in [0, 1)."""
    return (numbers * (np.array(shape[1:3]) - side + 1)).astype(np.int64)


def _window(corners: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
    """The index of the patches (N, side, side, C) in images (N, H, W, C)."""
    rows, columns = (corners[:, axis, None] + np.arange(side) for axis in (0, 1))
    return np.arange(len(corners))[:, None, None], rows[:, :, None], columns[:, None]


def _placed(patch: np.ndarray, images: np.ndarray, corners: np.ndarray) -> np.ndarray:
    placed = images.copy()
    placed[_window(corners, len(patch))] = patch
    return placed


def _gradient(model: Any, x: tf.Tensor, y: tf.Tensor, *, targeted: bool) -> tf.Tensor:
    """float32 (N, H, W, C)."""
    return logits_and_gradient(model, x, y, loss=_of_class if targeted else _of_others)[1]


_compiled_gradient = PerModel(_gradient)


def _of_class(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor | None = None) -> tf.Tensor:
    """log p_y."""
    return -losses.cross_entropy(logits, y)


def _of_others(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor | None = None) -> tf.Tensor:
    """log(1 - p_y), whose gradient vanishes once an image fools the model, so that the others decide."""
    own = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    others = tf.reduce_logsumexp(tf.where(own, logits.dtype.min, logits), axis=1)
    return others - tf.reduce_logsumexp(logits, axis=1)
