"""What training writes for TensorBoard: curves and augmented images."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfadv.datasets.augment import augment
from tfadv.datasets.batches import Samples

COLUMNS, DRAWS = 8, 4  # of the sheet of augmented images


class TrainingLog:
    """Writes the curves of one training run: the runs `train` and `validation` of a folder.

    The tags are `loss`, `accuracy` and, for adversarial training, `robust_accuracy`, one point per epoch; the run
    `train` also has `learning_rate` and `images_per_second`.
    """

    def __init__(self, log_dir: str | os.PathLike | None) -> None:
        """Creates no file yet.

        Args:
          log_dir: folder for TensorBoard; None writes nothing.
        """
        self._folder = pathlib.Path(log_dir) if log_dir else None
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def start(self, samples: Samples, seed: int, augmentations: Sequence[str]) -> None:
        """Begins a new run: writes a sheet of augmented images.

        The sheet, `augmented_images`, has a row of original samples, spread over images and eps, then rows of them
        augmented.

        Args:
          samples: what the model is trained on.
          seed: of the augmentation.
          augmentations: names in `tfadv.datasets.AUGMENTATIONS`; without any, there is no sheet.
        """
        if not self._folder:
            return
        if augmentations:
            numbers = tf.cast(tf.linspace(0, len(samples) - 1, COLUMNS), tf.int64)
            x, _ = samples.batch_fn()(numbers)
            rows = [x] + [augment(x, tf.constant([seed, draw]), augmentations) for draw in range(DRAWS)]
            sheet = tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)
            with self._writer("train").as_default(step=0):
                tf.summary.image("augmented_images", sheet[None])

    def epoch(self, number: int, metrics: Mapping[str, float], **rates: float) -> None:
        """Writes the metrics of one epoch.

        Args:
          number: of the epoch, from 1.
          metrics: as Keras names them; "val_…" belong to the run `validation`.
          **rates: further scalars of the run `train`.
        """
        if not self._folder:
            return
        runs = {
            "train": {name: value for name, value in metrics.items() if not name.startswith("val_")} | rates,
            "validation": {name[4:]: value for name, value in metrics.items() if name.startswith("val_")},
        }
        for run, scalars in runs.items():
            with self._writer(run).as_default(step=number):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
            self._writer(run).flush()

    def close(self) -> None:
        """Closes all files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, run: str) -> tf.summary.SummaryWriter:
        assert self._folder
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self._folder / run))
        return self._writers[run]
