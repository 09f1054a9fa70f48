"""Images in memory or on the disk → tf.data batches.

The images stay uint8 and the perturbations int8 until a batch is cut out of
them; order and augmentation are pure functions of (seed, epoch, step).
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfadv.datasets.augment import augment
from tfadv.datasets.storage import Images, take

PARALLEL = 2  # batches prepared at a time: preparing one takes a twentieth of a training step
_plain = tf.autograph.experimental.do_not_convert  # converting functions that do not need it takes seconds


@dataclasses.dataclass(frozen=True)
class Samples:
    """Images and stored perturbations: one sample per image and level of eps.

    Attributes:
      images: uint8, or float32 in [0, 1], (N, H, W, C).
      labels: int64 (N,).
      perturbations: int8 (N, H, W, C) in units of eps / 127, or None.
      epsilons: E floats; sample k is image k mod N at level k // N.  0 is the image itself, so (0.0,) is the plain data
        set, and (0.0, 0.0) shows each image twice.
    """

    images: Images
    labels: np.ndarray
    perturbations: Images | None = None
    epsilons: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if self.perturbations is None and any(self.epsilons):
            raise ValueError(f"epsilons {self.epsilons} need perturbations.")

    def __len__(self) -> int:
        return len(self.labels) * len(self.epsilons)

    def order(self, seed: tf.Tensor) -> tf.Tensor:
        """The sample numbers of one epoch in random order, int64 (len(self),); seed int64 (2,)."""
        return tf.random.experimental.stateless_shuffle(tf.range(len(self), dtype=tf.int64), seed)

    def select(self, positions: np.ndarray | slice | range) -> Samples:
        """The samples of some of the images, by position."""
        perturbations = None if self.perturbations is None else take(self.perturbations, positions)
        return dataclasses.replace(
            self, images=take(self.images, positions), labels=self.labels[positions], perturbations=perturbations
        )

    def batch_fn(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """A function from int64 sample numbers (B,) to (images float32 (B, H, W, C) in [0, 1], labels int64 (B,))."""
        images, perturbations = _gatherer(self.images), None
        if self.perturbations is not None:
            perturbations = _gatherer(self.perturbations)
        # These tensors are created here and not in the function, so that all batches share their memory.
        with tf.device("cpu"):
            labels, epsilons = tf.constant(self.labels), tf.constant(self.epsilons, tf.float32)

        def batch(numbers):
            n = tf.shape(labels, tf.int64)[0]
            rows, levels = numbers % n, numbers // n
            x = to_float(images(rows))
            if perturbations is not None:
                eps = tf.gather(epsilons, levels)[:, None, None, None]
                x = perturbed(x, perturbations(rows), eps)
            return x, tf.gather(labels, rows)

        return batch


def _gatherer(array: Images) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from int64 row numbers (B,) to these rows of an array, which is read in place.

    A tensor of the array would be a second copy of all images.
    """
    # TensorFlow keeps every function that it gets through `numpy_function` until the process ends, and the array must
    # not live as long.  A tf.data.Dataset keeps `gather`, and with it the array, as long as it is itself in use.
    reference = weakref.ref(array)

    def read(rows):
        values = reference()
        assert values is not None
        return np.asarray(values[rows])

    def gather(numbers):
        rows = tf.numpy_function(read, [numbers], array.dtype, stateful=False)
        rows.set_shape((*numbers.shape, *array.shape[1:]))
        return rows

    return gather


def to_float(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    """Converts uint8 (…) to float32 (…) in [0, 1]; float32 images stay as they are."""
    return tf.cast(images, tf.float32) / 255.0 if images.dtype in (np.uint8, tf.uint8) else images


def perturbed(
    x: tf.Tensor, perturbations: tf.Tensor, eps: tf.Tensor | float, clip: tuple[float, float] = (0.0, 1.0)
) -> tf.Tensor:
    """The adversarial images of stored perturbations: clip(x + eps * p / 127).

    Args:
      x: float32 (…, H, W, C) in [0, 1].
      perturbations: int8, of a shape that broadcasts with x; +-127 means +-eps.
      eps: float32, of a shape that broadcasts with x, in units of a [0, 1] pixel.
      clip: (least, greatest) pixel value.

    Returns:
      float32, the broadcast shape.
    """
    # p / 127 is exactly +-1 for a sign, so this equals the attack's own x + eps * sign to the bit.
    return tf.clip_by_value(x + eps * (tf.cast(perturbations, tf.float32) / 127.0), *clip)


def training_batches(
    samples: Samples,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    augmentations: Sequence[str] = (),
    first: tuple[int, int] = (0, 0),
    share: tuple[int, int] = (0, 1),
) -> tuple[tf.data.Dataset, int]:
    """Shuffled, augmented batches for all epochs in one tf.data.Dataset.

    An epoch is a new permutation of the samples; the last, incomplete batch of
    an epoch is dropped.

    Args:
      samples: `Samples`.
      batch_size: int; where it exceeds the number of samples, there is one batch of all of them.
      epochs: int, the total number of epochs.
      seed: int.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
      first: (epoch, step) to begin with; the batches equal those of an uninterrupted run.
      share: (i, n) for part i of n equal parts of each batch, which host i of n needs; only these images are read and
        augmented.

    Returns:
      (dataset, steps): a tf.data.Dataset of (x float32 (B / n, H, W, C), y int64
      (B / n,)) with known cardinality, and the number of steps in an epoch.
    """
    batch_size = min(batch_size, len(samples))
    steps = len(samples) // batch_size
    batch_of = samples.batch_fn()

    @_plain
    def order(epoch):
        numbers = samples.order(tf.stack([tf.constant(seed, tf.int64), epoch]))
        numbers = tf.reshape(numbers[: steps * batch_size], (steps, batch_size))[:, _part(batch_size, share)]
        first = epoch * steps
        return tf.data.Dataset.from_tensor_slices((numbers, tf.range(first, first + steps)))

    @_plain
    def batch(numbers, step):
        x, y = batch_of(numbers)
        if augmentations:
            x = augment(x, tf.stack([tf.constant(seed, tf.int64), step]), augmentations, share)
        return x, y

    epoch, step = first
    dataset = tf.data.Dataset.range(epoch, epochs).flat_map(order).skip(step)
    # flat_map loses the cardinality, without which Keras counts one step too many (keras#23084).
    dataset = dataset.apply(tf.data.experimental.assert_cardinality((epochs - epoch) * steps - step))
    return prefetched(dataset.map(batch, PARALLEL, deterministic=True)), steps


def evaluation_batches(samples: Samples, *, batch_size: int, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """All samples once, in order, in full batches: the last batch is filled up with the first samples at weight 0.

    Args:
      samples: `Samples`.
      batch_size: int.
      share: as in `training_batches`.

    Returns:
      tf.data.Dataset of (x float32 (B / n, H, W, C), y int64 (B / n,), weights float32 (B / n,), 1 or 0), of known
      cardinality.
    """
    batch_of, n = samples.batch_fn(), len(samples)

    @_plain
    def batch(start):
        numbers = start + tf.range(batch_size, dtype=tf.int64)[_part(batch_size, share)]
        return *batch_of(numbers % n), tf.cast(numbers < n, tf.float32)

    return prefetched(tf.data.Dataset.range(0, n, batch_size).map(batch, PARALLEL, deterministic=True))


def _part(batch_size: int, share: tuple[int, int]) -> slice:
    part, of_parts = share
    if batch_size % of_parts:
        raise ValueError(f"a batch of {batch_size} images has no {of_parts} equal parts.")
    size = batch_size // of_parts
    return slice(part * size, (part + 1) * size)


def full_batches(n: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Row numbers of full batches, so that XLA compiles one shape only; the first rows fill up the last batch.

    Yields:
      (int64 (batch_size,) row numbers, how many of them are new).
    """
    for start in range(0, n, batch_size):
        yield np.arange(start, start + batch_size) % n, min(batch_size, n - start)


def prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prepares batches before they are needed."""
    options = tf.data.Options()
    # With TensorFlow 2.21, the end of an iterator waits for its autotuning, up to as long as it was in use.
    options.autotune.enabled = False
    return dataset.prefetch(PARALLEL).with_options(options)
