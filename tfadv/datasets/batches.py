"""Images in memory → tf.data batches.

The images stay uint8 and the perturbations int8 until a batch is cut out of
them; order and augmentation are pure functions of (seed, epoch, step).
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfadv.datasets.augment import augment

PARALLEL = 2  # batches in the making: a batch takes a twentieth of a step


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images, each to be seen once at every level of eps.

    Attributes:
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      perturbations: int8 (N, H, W, C) in units of eps / 127, or None.
      epsilons: floats; sample k is image k mod N at level k // N.  0 is the image
        itself, so (0.0,) is the plain data set, and (0.0, 0.0) shows each image twice.
    """

    images: np.ndarray
    labels: np.ndarray
    perturbations: np.ndarray | None = None
    epsilons: tuple[float, ...] = (0.0,)

    def __post_init__(self):
        if self.perturbations is None and any(self.epsilons):
            raise ValueError(f"epsilons {self.epsilons} need perturbations.")

    def __len__(self):
        return len(self.labels) * len(self.epsilons)

    def select(self, positions):
        """The Samples of some of the images, by position."""
        perturbations = None if self.perturbations is None else self.perturbations[positions]
        return dataclasses.replace(
            self, images=self.images[positions], labels=self.labels[positions], perturbations=perturbations
        )

    def cutter(self):
        """A function from int64 sample numbers (B,) to (float32 (B, H, W, C) in [0, 1], int64 (B,))."""
        # Tensors made here and not in the function: every batch is cut from the same memory.
        with tf.device("cpu"):
            images, labels = tf.constant(self.images), tf.constant(self.labels)
            perturbations = None if self.perturbations is None else tf.constant(self.perturbations)
            epsilons = tf.constant(self.epsilons, tf.float32)

        def cut(numbers):
            n = tf.shape(labels, tf.int64)[0]
            rows, levels = numbers % n, numbers // n
            x = to_float(tf.gather(images, rows))
            if perturbations is not None:
                x = perturbed(x, tf.gather(perturbations, rows), tf.gather(epsilons, levels)[:, None, None, None])
            return x, tf.gather(labels, rows)

        return cut


def to_float(images):
    """uint8 (…) → float32 (…) in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def perturbed(x, perturbations, eps, clip=(0.0, 1.0)):
    """The adversarial images of a stored perturbation: clip(x + eps * p / 127).

    Args:
      x: float32 (…, H, W, C) in [0, 1].
      perturbations: int8, of a shape that broadcasts with x; +-127 is +-eps.
      eps: float32, of a shape that broadcasts with x, in units of a [0, 1] pixel.
      clip: (least, greatest) pixel value.

    Returns:
      float32, the broadcast shape.
    """
    # p / 127 is exactly +-1 for a sign, so this equals the attack's own x + eps * sign to the bit.
    return tf.clip_by_value(x + eps * (tf.cast(perturbations, tf.float32) / 127.0), *clip)


def training_batches(samples, *, batch_size, epochs, seed, augmentations=(), first=(0, 0)):
    """Shuffled, augmented batches for all epochs in one tf.data.Dataset.

    An epoch is a fresh permutation of the samples; those that do not fill a
    last batch are left out of that epoch.

    Args:
      samples: `Samples`.
      batch_size: int; more than there are samples means one batch of them all.
      epochs: int, how many epochs in all.
      seed: int.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
      first: (epoch, step), where to begin; the batches are those of an unbroken run.

    Returns:
      (dataset, steps): a tf.data.Dataset of (x float32 (B, H, W, C), y int64
      (B,)) with known cardinality, and the number of steps in an epoch.
    """
    batch_size = min(batch_size, len(samples))
    steps = len(samples) // batch_size
    cut = samples.cutter()

    def order(epoch):
        numbers = tf.random.experimental.stateless_shuffle(
            tf.range(len(samples), dtype=tf.int64), tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        numbers = tf.reshape(numbers[: steps * batch_size], (steps, batch_size))
        first = epoch * steps
        return tf.data.Dataset.from_tensor_slices((numbers, tf.range(first, first + steps)))

    def batch(numbers, step):
        x, y = cut(numbers)
        if augmentations:
            x = augment(x, tf.stack([tf.constant(seed, tf.int64), step]), augmentations)
        return x, y

    epoch, step = first
    dataset = tf.data.Dataset.range(epoch, epochs).flat_map(order).skip(step)
    # flat_map forgets how many there are, and Keras counts wrongly without (keras#23084).
    dataset = dataset.apply(tf.data.experimental.assert_cardinality((epochs - epoch) * steps - step))
    return _ahead(dataset.map(batch, PARALLEL, deterministic=True)), steps


def evaluation_batches(samples, *, batch_size):
    """All samples once, in order, in full batches: the last one goes on with the first samples, which do not count.

    Returns:
      tf.data.Dataset of (x float32 (B, H, W, C), y int64 (B,), counts float32 (B,), 1 or 0), of known cardinality.
    """
    cut, n = samples.cutter(), len(samples)

    def batch(start):
        numbers = start + tf.range(batch_size, dtype=tf.int64)
        return *cut(numbers % n), tf.cast(numbers < n, tf.float32)

    return _ahead(tf.data.Dataset.range(0, n, batch_size).map(batch, PARALLEL, deterministic=True))


def _ahead(dataset):
    """Makes batches before they are asked for."""
    options = tf.data.Options()
    # Nothing gained by it in a steady run, and seconds lost in another (BUILD_NOTES.md).
    options.autotune.enabled = False
    return dataset.prefetch(PARALLEL).with_options(options)
