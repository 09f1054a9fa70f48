"""Images for TensorBoard: what the network is trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import tensorflow as tf

from tfadv.datasets.augment import augment
from tfadv.datasets.batches import Samples

AFFECTS_RESULTS = False
COLUMNS, DRAWS = 8, 4


def log_augmented_images(log_dir: str | os.PathLike, samples: Samples, seed: int, augmentations: Sequence[str]) -> None:
    """Writes `augmentation/sheet` under `<log_dir>/train`: a row of original samples, then rows of them augmented.

    Args:
      log_dir: folder for TensorBoard.
      samples: the sheet shows every level of eps, spread over the images.
      seed: of the augmentation.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
    """
    numbers = tf.cast(tf.linspace(0, len(samples) - 1, COLUMNS), tf.int64)
    x, _ = samples.batch_fn()(numbers)
    rows = [x] + [augment(x, tf.constant([seed, draw]), augmentations) for draw in range(DRAWS)]
    sheet = tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)
    writer = tf.summary.create_file_writer(os.path.join(log_dir, "train"))
    with writer.as_default(step=0):
        tf.summary.image("augmentation/sheet", sheet[None])
    writer.close()
