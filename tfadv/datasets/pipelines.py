"""A user's own data set as training batches: it is iterated anew in each epoch, with its own order and augmentation."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv.datasets.arrays import classes_of, labeled_batches, pixel_reader
from tfadv.datasets.batches import Samples, to_float
from tfadv.models.image_model import fitted

_TOLERANCE = 1e-6
LOG = logging.getLogger(__name__)


class Pipeline:
    """Batches of a `tf.data.Dataset` or a `keras.utils.PyDataset` of (images, labels) or (images, labels, weights).

    Attributes:
      steps: number of batches in an epoch.
      batch_size: of the first batch.
    """

    def __init__(self, dataset: Any, model: Any, input_range: tuple[float, float], batch_size: int) -> None:
        """Draws the first batch, which is used again in the first epoch.

        Args:
          dataset: see `tfadv.datasets.arrays.LabeledImages`.
          model: the model to train, which takes (N, H, W, C).
          input_range: the (least, greatest) pixel value that the model expects.
          batch_size: of a `tf.data.Dataset` that is not batched.

        Raises:
          ValueError: the data set repeats without end, is empty or not batched, or yields something else.
        """
        if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the data set repeats without end: give one pass over the images, such as x.take(n).")
        if isinstance(dataset, tf.data.Dataset) and not _is_batched(dataset):
            dataset = dataset.batch(batch_size)
        self._dataset, self._model = dataset, model
        self._first_epoch: Iterator = labeled_batches(dataset)
        first = next(self._first_epoch, None)
        if first is None:
            raise ValueError("there must be at least one image.")
        self._reader, self.batch_size = pixel_reader(first[0], input_range), len(first[1])
        self._first_epoch = itertools.chain([first], self._first_epoch)
        self.steps = self._number_of_batches()

    def _number_of_batches(self) -> int:
        if isinstance(self._dataset, keras.utils.PyDataset):
            return self._dataset.num_batches
        known = int(self._dataset.cardinality())
        if known >= 0:
            return known
        LOG.info("the data set does not tell its length: one pass over it counts its batches.")
        return sum(1 for _ in self._dataset)

    def _read(self, x: np.ndarray) -> np.ndarray:
        """Pixels as `pixel_reader` reads those of the first batch, within the same range."""
        pixels = self._reader(x)
        if pixels.dtype == np.float32 and not (pixels.min() >= -_TOLERANCE and pixels.max() <= 1 + _TOLERANCE):
            raise ValueError(
                f"a batch has pixels from {x.min():g} to {x.max():g}, and the first batch was read in another range: "
                "scale all images to [0, 1]."
            )
        return pixels

    def _classes(self, y: np.ndarray) -> np.ndarray:
        classes, number = classes_of(y), self._model.output_shape[-1]
        if not 0 <= classes.min() <= classes.max() < number:
            raise ValueError(f"a batch has labels from {classes.min()} to {classes.max()}: give 0 to {number - 1}.")
        return classes

    def first_images(self, most: int) -> Samples:
        """The first images of the first epoch with a weight above 0, which will be trained on as well."""
        taken: list[tuple] = []
        while sum(len(y) for _, y, _ in taken) < most:
            batch = next(self._first_epoch, None)
            if batch is None:
                break
            taken.append(batch)
        self._first_epoch = itertools.chain(taken, self._first_epoch)
        counted = [slice(None) if w is None else w > 0 for _, _, w in taken]
        images = np.concatenate([fitted(self._model, self._read(x))[rows] for (x, _, _), rows in zip(taken, counted)])
        if not len(images):
            raise ValueError("all sample weights are 0, so there is nothing to learn from.")
        return Samples(images, np.concatenate([self._classes(y)[rows] for (_, y, _), rows in zip(taken, counted)]))

    def epoch(self, number: int) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]]:
        """The batches of an epoch; its number counts from 0.

        Yields:
          (float32 (M, H, W, C) in [0, 1], int64 (M,), weights float32 (M,) or None).

        Raises:
          ValueError: pixels or labels of another range than those of the first batch, or fewer batches.
        """
        batches, step = self._first_epoch if number == 0 else labeled_batches(self._dataset), 0
        for step, (x, y, weights) in enumerate(batches, 1):
            if step == self.steps and isinstance(self._dataset, keras.utils.PyDataset):
                self._dataset.on_epoch_end()  # all batches are drawn
            yield to_float(fitted(self._model, self._read(x))), tf.constant(self._classes(y)), weights
        if step < self.steps:
            raise ValueError(
                f"the data set has {step} batches in epoch {number + 1} and said that it has {self.steps}: give it a "
                "length that stays."
            )


def _is_batched(dataset: tf.data.Dataset) -> bool:
    """Whether the labels have an axis for the images; a label that is one-hot has fewer axes than a batch of them."""
    spec = dataset.element_spec
    if isinstance(spec, dict):
        return all(part.shape.rank is None or part.shape.rank > 0 for part in spec.values())
    if not isinstance(spec, tuple) or len(spec) < 2:
        return True
    images, labels = (getattr(part, "shape", tf.TensorShape(None)) for part in spec[:2])
    return labels.rank is None or labels.rank > 1 or (labels.rank == 1 and images.rank != 3)
