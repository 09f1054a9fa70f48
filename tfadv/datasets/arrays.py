"""Images and labels in any form that Keras takes → arrays, a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

LOG = logging.getLogger(__name__)
_TOLERANCE = 1e-6  # images that were normalised and scaled back miss 0 and 1 by rounding
_IMAGE_KEYS, _LABEL_KEYS = ("image", "images", "img", "x"), ("label", "labels", "class", "target", "y")
_WEIGHT_KEYS = ("sample_weight", "sample_weights", "weight", "weights")
_DARK = 0.13  # of the range: 32 of 255
_WHOLE = 2**20  # images in one piece

Reader = Callable[[np.ndarray], np.ndarray]


class LabeledImages:
    """Images with their classes, read in pieces: a data set is iterated anew each time and never collected.

    Attributes:
      n: the number of images; None where a data set does not tell.
    """

    def __init__(
        self, x: Any, y: Any = None, input_range: tuple[float, float] = (0.0, 1.0), *, prepared: bool = False
    ) -> None:
        """Takes images and labels.

        Args:
          x: images (N, H, W, C), (N, H, W) or (N, D); or, where y is None, a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of (images, labels), of (images, labels, weights), or of dicts with "image" and
            "label", in batches or one by one.  See `pixel_reader` for the pixels.
          y: labels, int (N,) or (N, 1), or one-hot (N, K).
          input_range: the (least, greatest) pixel value that the model expects.
          prepared: whether the pixels are uint8 from 0 to 255, or float32 in [0, 1], without a doubt.

        Raises:
          ValueError: labels are missing or have another form, or a data set repeats without end.
        """
        self._range: tuple[float, float] = input_range
        self._read: Reader | None = (lambda x: x) if prepared else None
        self._batches = is_dataset(x)
        self.n: int | None = None
        if self._batches:
            if y is not None:
                raise ValueError("y must be None where x is a data set: the labels are in it.")
            if isinstance(x, tf.data.Dataset) and x.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise ValueError("the data set repeats without end: give one pass over the images, such as x.take(n).")
            self._x, self._y = x, np.zeros(0, np.int64)
        elif y is None:
            kind = "" if hasattr(x, "shape") else f", and a {type(x).__name__} is none"
            raise ValueError(
                "y is missing: give the labels, or a tf.data.Dataset or keras.utils.PyDataset of images and labels as x"
                f"{kind}."
            )
        else:
            self._x, self._y = _array(x), classes_of(y)
            self.n = len(self._y)
            if len(self._x) != self.n:
                raise ValueError(f"there are {len(self._x)} images and {self.n} labels.")

    def pieces(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The images in order, at most `size` at a time.

        Yields:
          (uint8, or float32 in [0, 1], (M, …); int64 (M,)).

        Raises:
          ValueError: there is no image, or pixels of another type or range.
        """
        source = self._of_dataset(size) if self._batches else self._of_arrays(size)
        number = 0
        for x, y in source:
            number += len(y)
            yield self._pixels(x), y
        if not number:
            raise ValueError("there must be at least one image.")

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Some of the images, as `pieces` yields them, by their ascending row numbers; not of a data set."""
        x = tf.gather(self._x, rows) if isinstance(self._x, tf.Tensor) else self._x[rows]
        return self._pixels(x), self._y[rows]

    def _pixels(self, x: np.ndarray) -> np.ndarray:
        if self._read is None:
            self._read = pixel_reader(x if self._batches else self._x, self._range)
        return self._read(np.asarray(x))

    def _of_arrays(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(self._y), size):
            yield self._x[start : start + size], self._y[start : start + size]

    def _of_dataset(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of other sizes as pieces of one size; the last one may be smaller."""
        images: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for x, y, weights in labeled_batches(self._x):
            if weights is not None and not images:
                LOG.warning("the data set's sample weights are not used: each image counts once.")
            images.append(x)
            labels.append(classes_of(y))
            while sum(map(len, labels)) >= size:
                whole, classes = _joined(images), np.concatenate(labels)
                yield whole[:size], classes[:size]
                images, labels = [whole[size:]], [classes[size:]]
        if sum(map(len, labels)):
            yield _joined(images), np.concatenate(labels)


def _array(x: Any) -> Any:
    """An array or tensor with a length, of what has none, such as a `tf.Variable` or a list."""
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        raise ValueError(f"the images are a {type(x).__name__}: give them in one shape, as a NumPy array.")
    return x if hasattr(x, "dtype") and hasattr(x, "shape") and hasattr(x, "__len__") else np.asarray(x)


def is_dataset(x: Any) -> bool:
    """Whether x brings its labels along."""
    return isinstance(x, (tf.data.Dataset, keras.utils.PyDataset))


def as_arrays(x: Any, y: Any = None, input_range: tuple[float, float] = (0.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """All images and their classes, for functions that need them at once.

    Args:
      x, y, input_range: as `LabeledImages` takes them.

    Returns:
      (uint8, or float32 in [0, 1], (N, …); int64 (N,)).

    Raises:
      ValueError: as in `LabeledImages`.
    """
    pieces = list(LabeledImages(x, y, input_range).pieces(_WHOLE))
    if len(pieces) == 1:
        return pieces[0]
    images, labels = zip(*pieces)
    return np.concatenate(images), np.concatenate(labels)


def labeled_batches(dataset: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """One pass over a data set.

    Args:
      dataset: a finite `tf.data.Dataset`, or a `keras.utils.PyDataset`; see `LabeledImages`.

    Yields:
      (images (M, …), labels (M, …), weights (M,) or None); a data set of single images yields batches of one.

    Raises:
      ValueError: an item has another form, or a PyDataset does not tell its length.
    """
    items = dataset
    if isinstance(dataset, keras.utils.PyDataset):
        if dataset.num_batches is None:
            raise ValueError("the data set must know its number of batches, as its method __len__ returns it.")
        items = (dataset[i] for i in range(dataset.num_batches))
    for item in items:
        x, y, *weights = _parts(item)
        x, y = np.asarray(x), np.asarray(y)
        single = y.ndim == 0 or (y.ndim == 1 and x.ndim == 3 and (len(x) != len(y) or x.shape[-1] in (1, 3, 4)))
        w = np.asarray(weights[0], np.float32) if weights and weights[0] is not None else None
        if single:
            x, y, w = x[None], y[None], None if w is None else w.reshape(1)
        if len(x) != len(y) or (w is not None and w.reshape(-1).shape != (len(y),)):
            raise ValueError(f"a batch has {len(x)} images and {len(y)} labels, or weights of another number.")
        yield x, y, None if w is None else w.reshape(-1)


def _parts(item: Any) -> tuple:
    if isinstance(item, dict):
        image, label = (next((key for key in keys if key in item), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS))
        weights = next((item[key] for key in _WEIGHT_KEYS if key in item), None)
        if image and label:
            return item[image], item[label], weights
        raise ValueError(
            f"the data set yields dicts with {', '.join(map(str, item))}; tfadv needs the keys image and label: map "
            "the data set to (images, labels)."
        )
    if not isinstance(item, (tuple, list)) or not 2 <= len(item) <= 3:
        raise ValueError("the data set must yield (images, labels).")
    if isinstance(item[0], (dict, tuple, list)):
        raise ValueError(
            "the data set yields several inputs for each image; attacks change one: map it to (image, label)."
        )
    return tuple(item)


def _joined(images: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({x.shape[1:] for x in images})
    if len(shapes) > 1:
        raise ValueError(f"the images of the data set have different shapes, such as {shapes[0]} and {shapes[1]}.")
    return images[0] if len(images) == 1 else np.concatenate(images)


def pixel_reader(x: Any, input_range: tuple[float, float] = (0.0, 1.0)) -> Reader:
    """How pixels are read, decided once for all images.

    Whole numbers are from 0 to 255, or in the range that the model expects, where this is another one and they fit into
    it.  Floating-point numbers are in [0, 1] or, where they are not, in the range that the model expects, as Keras' own
    loaders return them.

    Args:
      x: the images, or the first of them, (N, …), of any type.
      input_range: the (least, greatest) pixel value that the model expects.

    Returns:
      A function from such images to uint8 from 0 to 255, or float32 in [0, 1], of the same shape.

    Raises:
      ValueError: the pixels are in none of these ranges.
    """
    dtype = tf.as_dtype(x.dtype).as_numpy_dtype if isinstance(x, tf.Tensor) else np.dtype(x.dtype).type
    if dtype is np.uint8 or np.issubdtype(dtype, np.bool_) or np.issubdtype(dtype, np.integer):
        return _whole_numbers(dtype, *_limits(x), *input_range)
    if not (np.issubdtype(dtype, np.floating) or dtype is tf.bfloat16.as_numpy_dtype):
        raise ValueError(f"images must be numbers, got {np.dtype(dtype)}.")
    (least, greatest), (low, high) = _limits(x), input_range
    if np.isnan(least) or np.isinf([least, greatest]).any():
        raise ValueError("the images hold NaN or infinite values: replace or remove them.")
    if _within(least, greatest, 0, 1):
        if low < 0:
            LOG.warning(
                "the images are in [0, 1] and are read so, although the model expects %g to %g: if they are in the "
                "range of the model, scale them to [0, 1].",
                *(low, high),
            )
        return lambda x: np.asarray(x, np.float32)
    if input_range != (0.0, 1.0) and _within(least, greatest, low, high):
        return _in_range_of_model(least, greatest, low, high)
    hint = f"scale them to [0, 1], or to the range of the model, {low:g} to {high:g}."
    if input_range == (0.0, 1.0):
        hint = "use tfadv.classifier(model, input_range=(least, greatest)) for a model of other pixels, or scale them."
    if input_range == (0.0, 1.0) and _within(least, greatest, 0, 255):
        hint = "use tfadv.classifier(model, input_range=(0, 255)) where the model expects these, or divide them by 255."
    raise ValueError(f"x must be in [0.0, 1.0], got values from {least:g} to {greatest:g}: {hint}")


def _in_range_of_model(least: float, greatest: float, low: float, high: float) -> Reader:
    LOG.info("images from %g to %g are read in the range of the model, %g to %g.", least, greatest, low, high)
    _warn_of_dark(greatest - low, high - low)
    return lambda x: ((np.asarray(x, np.float32) - np.float32(low)) / np.float32(high - low)).astype(np.float32)


def _whole_numbers(dtype: type, least: float, greatest: float, low: float, high: float) -> Reader:
    of_model = 1 < high < 255 or (high > 255 and dtype is not np.uint8)
    if of_model and low <= least and greatest <= high and not np.issubdtype(dtype, np.bool_):
        return _in_range_of_model(least, greatest, low, high)
    if not (least >= 0 and greatest <= 255):
        raise ValueError(f"images of whole numbers must be from 0 to 255, got {least:g} to {greatest:g}.")
    if greatest == 1:
        if not np.issubdtype(dtype, np.bool_):
            LOG.warning("the images hold the whole numbers 0 and 1 only: 1 is read as white, not as 1 of 255.")

        def black_and_white(x: np.ndarray) -> np.ndarray:
            if x.size and x.max() > 1:
                raise ValueError("the first images hold 0 and 1 only, and later ones up to 255: give all in one range.")
            return x.astype(np.float32)

        return black_and_white
    _warn_of_dark(greatest, 255)

    def whole(x: np.ndarray) -> np.ndarray:
        if x.dtype != np.uint8 and x.size and (x.min() < 0 or x.max() > 255):
            raise ValueError(f"images of whole numbers must be from 0 to 255, got {x.min():g} to {x.max():g}.")
        return x.astype(np.uint8)

    return whole


def _warn_of_dark(greatest: float, possible: float) -> None:
    if 0 < greatest <= _DARK * possible:
        LOG.warning(
            "the largest pixel is %g of %g: if white is %g, scale the images to [0, 1].", greatest, possible, greatest
        )


def _limits(x: Any) -> tuple[float, float]:
    if 0 in x.shape:
        return 0.0, 0.0
    if isinstance(x, tf.Tensor):
        x = tf.cast(x, tf.int32) if x.dtype == tf.bool else x
        return float(tf.reduce_min(x)), float(tf.reduce_max(x))
    return float(np.min(x)), float(np.max(x))


def _within(least: float, greatest: float, low: float, high: float) -> bool:
    tolerance = _TOLERANCE * (high - low)
    return low - tolerance <= least and greatest <= high + tolerance


def classes_of(y: Any) -> np.ndarray:
    """Class numbers int64 (N,) of labels int (N,) or (N, 1), or one-hot (N, K).

    Raises:
      ValueError: labels of another form.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.size and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        y = np.argmax(y, axis=1)
    if y.ndim != 1 or y.dtype.kind not in "biuf" or (y != np.floor(y.astype(np.float64))).any():
        raise ValueError(f"y must be one class number per image, (N,), or one-hot, (N, K); got {y.dtype} {y.shape}.")
    return y.astype(np.int64)
