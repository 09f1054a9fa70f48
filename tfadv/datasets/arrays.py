"""Images and labels in any form that Keras takes → arrays."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

LOG = logging.getLogger(__name__)


def as_arrays(x: Any, y: Any = None) -> tuple[np.ndarray | tf.Tensor, np.ndarray]:
    """Images and their classes.

    Args:
      x: images (N, H, W, C), uint8 or float in [0, 1]; or, where y is None, a `tf.data.Dataset` or a
        `keras.utils.PyDataset` of (images, labels), in batches or one by one.
      y: labels, int (N,) or (N, 1), or one-hot (N, K).

    Returns:
      (uint8 or float32 (N, H, W, C), int64 (N,)).  A tensor of images stays one.

    Raises:
      ValueError: labels are missing or have another form.
    """
    if isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)):
        if y is not None:
            raise ValueError("y must be None where x is a data set: the labels are in it.")
        x, y = _collected(x)
    if y is None:
        raise ValueError("y is missing: give the labels, or a data set of images and labels as x.")
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if x.dtype in (np.float64, np.float16, tf.float64, tf.float16, tf.bfloat16):
        x = np.asarray(x, np.float32)
    return x, _classes(np.asarray(y))


def _collected(batches: Any) -> tuple[np.ndarray, np.ndarray]:
    items = batches
    if isinstance(batches, keras.utils.PyDataset):
        items = (batches[i] for i in range(batches.num_batches))
    elif batches.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("the data set repeats without end: give one pass over the images.")
    images, labels = [], []
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise ValueError("the data set must yield (images, labels).")
        x, y = np.asarray(item[0]), np.asarray(item[1])
        if x.ndim == 3:
            x, y = x[None], y[None]
        images.append(x)
        labels.append(y)
    if not images:
        raise ValueError("there must be at least one image.")
    return np.concatenate(images), np.concatenate(labels)


def _classes(y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.size and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        y = np.argmax(y, axis=1)
    if y.ndim != 1 or y.dtype.kind not in "iuf" or (y != np.floor(y)).any():
        raise ValueError(f"y must be one class number per image, (N,), or one-hot, (N, K); got {y.dtype} {y.shape}.")
    return y.astype(np.int64)
