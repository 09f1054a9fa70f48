"""A sheet of augmented images for TensorBoard: what the network is really shown."""

import os

import tensorflow as tf

from tfadv.datasets.augment import augment

COLUMNS, DRAWS = 8, 4


def write_augmentation_sheet(log_dir, samples, seed, augmentations):
    """Writes `augmentation/sheet` under `<log_dir>/train`: a row of samples as they are, then rows of them augmented.

    Args:
      log_dir: path.
      samples: `Samples`; the sheet shows every level of eps, spread over the images.
      seed: int.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
    """
    numbers = tf.cast(tf.linspace(0, len(samples) - 1, COLUMNS), tf.int64)
    x, _ = samples.cutter()(numbers)
    rows = [x] + [augment(x, tf.constant([seed, draw]), augmentations) for draw in range(DRAWS)]
    sheet = tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)
    writer = tf.summary.create_file_writer(os.path.join(log_dir, "train"))
    with writer.as_default(step=0):
        tf.summary.image("augmentation/sheet", sheet[None])
    writer.close()
