"""Certified robustness by randomized smoothing (Cohen et al. 2019, https://arxiv.org/abs/1902.02918): `certify`."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.attacks.gradient import check_inputs
from tfadv.attacks.loop import Resume
from tfadv.datasets.arrays import LabeledImages
from tfadv.datasets.batches import full_batches, to_float
from tfadv.errors import UserError, check_whole_number
from tfadv.evaluation.certificate import Certificate, check_settings, joined, least_successes
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.evaluator import Execution
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.models.compiled import PerModel, logits_of
from tfadv.models.expectation import Expectation
from tfadv.models.image_model import fitted, image_model
from tfadv.models.logits import input_range_of
from tfadv.runtime.console import progress_disabled
from tfadv.runtime.devices import Devices

LOG = logging.getLogger(__name__)
_BLOCK = 25  # noisy copies of one image whose noise is drawn together
_BATCHES = 16  # between two looks at the counts
_PIECE = 16  # images per device that are certified together
_ENOUGH = 20  # images that tell whether a model is better than guessing


def certify(
    model: Any,
    images: Any,
    labels: Any = None,
    sigma: float = 0.25,
    n: int = 10_000,
    alpha: float = 0.001,
    *,
    n0: int = 100,
    batch_size: int = 256,
    seed: int = 0,
    first: int = 0,
    execution: Execution | None = None,
) -> Certificate:
    """Certifies an L2 radius around each image that no attack on the smoothed classifier can break.

    The algorithm is CERTIFY of the paper (section 3.2.2).  An image takes n0 + n forward passes, or n0 where the
    selected class is wrong.  The noise is not clipped.  It depends on the seed and on the numbers of the image and of
    the copy, and not on the batch.  A model that was not trained with noise, such as by the defense `gaussian`,
    classifies noisy copies badly.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits or probabilities (N, K), of which only
        the largest counts; run with `training=False`.  `tfadv.classifier` makes one of any classifier.
      images: as `tfadv.evaluate` takes them.
      labels: as `tfadv.evaluate` takes them; None where `images` is a data set.
      sigma: standard deviation of the noise, for pixels in [0, 1].
      n: noisy copies of each image that bound the probability of its class; more of them certify larger radii.
      alpha: the probability, for each image, that the radius is too large.
      n0: noisy copies of each image that select the class.
      batch_size: noisy copies that are classified at once, in whole blocks of 25.
      seed: int, for the noise.
      first: number of the first image, so that the parts of a data set give the same results as the whole.
      execution: how it runs; None shows a progress bar in a terminal.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: an argument has the wrong type, shape or range, or n copies can certify no radius with this alpha.
      UserError: the model is a `tfadv.expectation`.
    """
    least = {"n": 1, "n0": 1, "batch_size": 1, "first": 0, "seed": None}
    for name, value in (("n", n), ("n0", n0), ("batch_size", batch_size), ("first", first), ("seed", seed)):
        check_whole_number(name, value, least[name])
    check_settings(sigma, n, alpha)
    data = LabeledImages(images, labels, input_range_of(model), prepared=execution is not None)
    model = image_model(model)
    if isinstance(model, Expectation):
        raise UserError("certify draws copies of its own: give it the random model itself, not tfadv.expectation.")
    smoothing = _Smoothing(float(sigma), int(n), int(n0), float(alpha), int(seed))
    if execution is not None:
        return _certify(smoothing, model, data, first, batch_size, execution)
    with tqdm(total=data.n, unit="image", leave=False, disable=progress_disabled()) as bar:
        found = _certify(smoothing, model, data, first, batch_size, Execution(progress=bar.update))
    warn_of_guessing(getattr(model, "name", "the model"), found)
    return found


def _certify(
    smoothing: _Smoothing, model: Any, data: LabeledImages, first: int, batch_size: int, execution: Execution
) -> Certificate:
    """The certificate of all images, a few at a time."""
    devices, found = execution.devices or Devices(), []
    on_devices = OnAllDevices(smoothing, devices)
    for images, labels in data.pieces(_PIECE * devices.replicas):
        x = to_float(fitted(model, images))
        check_inputs(model, x, labels, 0.0, (0.0, 1.0), logits=False)
        (columns,) = on_devices(
            *(model, x, labels, [0.0]),
            image_numbers=np.arange(first, first + len(labels)),
            batch_size=batch_size,
            progress=execution.progress,
            resume=execution.resume,
        )
        settings = smoothing.sigma, smoothing.n, smoothing.n0, smoothing.alpha
        found.append(Certificate(*settings, labels, selected=columns[:, 0], counts=columns[:, 1:]))
        first += len(labels)
    return joined(found)


def warn_of_guessing(name: str, found: Certificate) -> None:
    """Says where a model of this name has not learned to classify noisy images."""
    accuracy = float((found.selected == found.labels).mean())
    share = largest_share(np.bincount(found.labels).tolist())
    if len(found.labels) >= _ENOUGH and hardly_better_than_guessing(accuracy, share):
        LOG.warning(
            "%s classifies %.1f%% of the images correctly under the noise, hardly more than guessing: train it with "
            "the defense gaussian(sigma=%g).",
            *(name, 100 * accuracy, found.sigma),
        )


def _votes(
    model: Any, x: tf.Tensor, numbers: tf.Tensor, blocks: tf.Tensor, sizes: tf.Tensor, sigma: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """How many noisy copies the model gives to each class.

    Args:
      model: the model.
      x: float32 (U, H, W, C), one image for each block of copies.
      numbers: int64 (U,), the numbers of the images.
      blocks: int64 (U,), the numbers of the blocks.
      sizes: int64 (U,), how many copies of a block count, the first ones.
      sigma: float32 ().
      seed: int64 ().

    Returns:
      int64 (U, K).
    """
    shape = tf.concat([[_BLOCK], tf.shape(x)[1:]], axis=0)

    def noise(of_block: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        number, block = of_block
        own_seed = tf.random.experimental.stateless_fold_in(tf.stack([seed, number]), block)
        return tf.random.stateless_normal(shape, own_seed)

    drawn = tf.map_fn(noise, (numbers, blocks), fn_output_signature=tf.float32)
    logits = logits_of(model, tf.reshape(x[:, None] + sigma * drawn, (-1, *x.shape[1:])))
    valid, classes = ~tf.reduce_any(tf.math.is_nan(logits), axis=1), tf.argmax(logits, axis=1)
    classes = tf.where(valid, classes, -tf.ones_like(classes))  # no vote
    votes = tf.reshape(tf.one_hot(classes, logits.shape[1], dtype=tf.int64), (-1, _BLOCK, logits.shape[1]))
    counts = tf.range(_BLOCK, dtype=tf.int64) < sizes[:, None]
    return tf.reduce_sum(votes * tf.cast(counts, tf.int64)[..., None], axis=1)


_compiled_votes = PerModel(_votes)


@dataclasses.dataclass(frozen=True)
class _Copies:
    """The noisy copies of N images, float32 (N, H, W, C) with numbers int64 (N,); `at_once` blocks go into a batch."""

    model: Any
    x: np.ndarray
    numbers: np.ndarray
    at_once: int
    sigma: float
    seed: int

    def votes(self, rows: np.ndarray, blocks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """int64 (R, B, K): how many copies are given each class.

        Args:
          rows: int64 (R,), positions of the images.
          blocks: int64 (B,), the same blocks for all of them.
          sizes: int64 (B,), how many copies of each block count.
        """
        images, found = np.repeat(rows, len(blocks)), []
        blocks, sizes = (np.tile(each, len(rows)) for each in (blocks, sizes))
        for chosen, new in full_batches(len(images), self.at_once):
            own = images[chosen]
            of_blocks = self.x[own], self.numbers[own], blocks[chosen], sizes[chosen]
            counted = _compiled_votes(self.model, *of_blocks, np.float32(self.sigma), np.int64(self.seed))
            found.append(counted.numpy()[:new])
        return np.concatenate(found).reshape(len(rows), -1, found[0].shape[1])


@dataclasses.dataclass(frozen=True)
class _Smoothing:
    """The settings of `certify`.  `OnAllDevices` calls it as it calls an attack."""

    sigma: float
    n: int
    n0: int
    alpha: float
    seed: int

    def __call__(
        self,
        model: Any,
        x: Any,
        y: Any,
        eps: Any,
        *,
        image_numbers: np.ndarray,
        batch_size: int,
        progress: Callable[[int], Any] | None = None,
        resume: Resume | None = None,
        cost: Any = None,
    ) -> np.ndarray:
        """int64 (1, N, 3): the selected class, and `Certificate.counts`, of float32 images (N, H, W, C)."""
        at_once, done, saved = max(1, batch_size // _BLOCK), 0, resume.load() if resume else None
        copies = _Copies(model, np.asarray(x), image_numbers, at_once, self.sigma, self.seed)
        if saved:
            selected, counts, rows = (np.array(array) for array in saved[-1])
            done = self._blocks if saved[0] == "done" else int(saved[1])
        else:
            selected, counts = self._select(copies), np.zeros((len(y), 2), np.int64)
            rows = np.flatnonzero(selected == y)
        while len(rows) and done < self._blocks:
            blocks = np.arange(done, min(done + -(-_BATCHES * at_once // len(rows)), self._blocks))
            rows, done = self._count(copies, selected, counts, rows, blocks), done + len(blocks)
            if resume:
                resume.partial(done, functools.partial(list, (selected, counts, rows)))
        if resume and not (saved and saved[0] == "done"):
            resume.done([selected, counts, rows])
        if progress:
            progress(len(y))
        return np.column_stack([selected, counts])[None]

    @property
    def _blocks(self) -> int:
        return -(-self.n // _BLOCK)

    @functools.cached_property
    def _enough(self) -> int:
        return least_successes(self.n, self.alpha)

    def _select(self, copies: _Copies) -> np.ndarray:
        """int64 (N,): the class that most of the first n0 copies are given; their blocks have numbers below 0."""
        blocks = np.arange(-(-self.n0 // _BLOCK))
        sizes = np.minimum(_BLOCK, self.n0 - _BLOCK * blocks)
        return copies.votes(np.arange(len(copies.x)), -1 - blocks, sizes).sum(axis=1).argmax(axis=1)

    def _count(
        self, copies: _Copies, selected: np.ndarray, counts: np.ndarray, rows: np.ndarray, blocks: np.ndarray
    ) -> np.ndarray:
        """Counts these blocks of some images, int (R,), in `counts`; returns those that may still be certified.

        An image is done after the first block with which it must abstain, even if all copies that are left were given
        the selected class.
        """
        drawn = np.minimum((blocks + 1) * _BLOCK, self.n)
        votes, each = copies.votes(rows, blocks, drawn - blocks * _BLOCK), np.arange(len(rows))
        successes = counts[rows, 1:] + votes[each, :, selected[rows]].cumsum(axis=1)
        hopeless = successes + (self.n - drawn) < self._enough
        abstains = hopeless.any(axis=1)
        last = np.where(abstains, hopeless.argmax(axis=1), len(blocks) - 1)
        counts[rows] = np.stack([drawn[last], successes[each, last]], axis=1)
        return rows[~abstains]
