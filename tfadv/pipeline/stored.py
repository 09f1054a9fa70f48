"""Stored adversarial images: a model's FGSM perturbations of the images of a run, a TFDS folder of TFRecords."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.fgsm import direction
from tfadv.datasets import short_name, stored
from tfadv.datasets.batches import Samples, full_batches, to_float
from tfadv.datasets.splits import draw_balanced
from tfadv.datasets.storage import Images, take
from tfadv.errors import UserError
from tfadv.pipeline.training import Trained, loaded
from tfadv.runtime.devices import Devices
from tfadv.store.files import link

if TYPE_CHECKING:
    from tfadv.pipeline.run import Run


def perturbations(
    model: Any,
    images: Images,
    labels: np.ndarray,
    *,
    batch_size: int,
    devices: Devices | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[np.ndarray]:
    """A model's FGSM perturbations.

    Args:
      model: a Keras model that returns logits.
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      batch_size: images at a time.
      devices: None means the default device.
      progress: called after each batch with the number of its images, or None.

    Yields:
      int8 (B, H, W, C), batch after batch, the last one smaller: 127 times the sign of the gradient (127 and not 1,
      so that iterative attacks, which end between the bounds, can be stored as well).
    """
    perturb = (devices or Devices()).gather(_perturb, model)
    for rows, new in full_batches(len(labels), batch_size):
        yield perturb(to_float(images[rows]), labels[rows]).numpy()[:new]
        if progress:
            progress(new)


def _perturb(model: Any, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.cast(127 * direction(model, x, y), tf.int8)


class StoredImages:
    """The perturbations of a model, and how they are read; one part is one TFRecord file."""

    def __init__(
        self, run: Run, source: Trained, folder: str, stage: str, draw: Mapping[str, int] | None = None
    ) -> None:
        """Builds the files that are missing.

        Args:
          run: settings, work folder and devices.
          source: the model whose perturbations are stored.
          folder: where they are stored, a path in the work folder.
          stage: the stage that builds them.
          draw: "size" and "round" where few training and validation images are drawn, anew for each round; None takes
            all images of all splits.
        """
        self._run, self.source, self._draw = run, source, draw
        self._name = f"{short_name(run.config.dataset)}_surrogate"
        self.entry = run.cache.cached_in_parts(
            f"{folder}/{self._name}/{stored.VERSION}",
            self._inputs,
            lambda: stored.sample_files(self.sizes, run.dataset.shape),
            self._build_part,
            self._join,
            stage=stage,
            need=lambda piece: len(piece) * stored.sample_bytes(run.dataset.shape),
            is_goal=run.config.stage == stage,
        )

    def _inputs(self) -> dict[str, Any]:
        """The images, the model and the attack."""
        drawn = {**self._draw, "seed": self._run.config.seed} if self._draw else {}
        return {
            "split": self._run.dataset.entry,
            "weights": self.source.entry,
            "surrogate": self.source.network.label,
            "attack": "fgsm",
            **drawn,
        }

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Split name → which of its images are stored, positions in the split."""
        dataset = self._run.dataset
        if not self._draw:
            return {split: np.arange(n) for split, n in dataset.sizes.items()}
        images, size = dataset.images, self._draw["size"]
        share = size / len(images["train"].labels)
        sizes = {"train": size, "validation": max(1, round(share * len(images["validation"].labels)))}
        return {
            split: draw_balanced(images[split].labels, size, (self._run.config.seed, self._draw["round"], stream))
            for stream, (split, size) in enumerate(sizes.items())
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Split name → number of its images that are stored."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def _build_part(
        self, folder: pathlib.Path, piece: stored.SampleFile, progress: Callable[[int], Any], resume: object
    ) -> None:
        """Perturbs the images of one file and writes it."""
        run, split = self._run, self._run.dataset.images[piece.split]
        rows = self._rows[piece.split][piece.start : piece.stop]
        images, labels, ids = take(split.images, rows), split.labels[rows], split.ids[rows]
        with loaded(run, self.source) as model:
            batches = perturbations(
                model,
                images,
                labels,
                batch_size=run.config.images_at_once,
                devices=run.devices,
                progress=progress,
            )
            stored.write_file(folder, self._name, piece, (images, labels, ids), batches)

    def _join(self, folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> None:
        """Puts the files together and writes the metadata of TFDS."""
        for part in parts:
            for path in part.glob("*.tfrecord-*"):
                link(path, folder / path.name)
        dataset = self._run.dataset
        name = dataset.record["dataset"]
        manifest["dataset"] = name
        manifest["epsilons"] = list(self._run.config.epsilons)  # the images serve any other eps as well
        manifest["counts"] = self.sizes
        stored.write_metadata(
            folder,
            self._name,
            stored.sample_files(self.sizes, dataset.shape),
            shape=dataset.shape,
            class_names=dataset.class_names,
            description=f"FGSM perturbations of {name} by {self.source.network.label}: "
            "adversarial image = clip(image / 255 + eps * perturbation / 127, 0, 1).",
        )

    @functools.cached_property
    def test(self) -> Samples:
        """The test split at every eps."""
        return self.read("test", self._run.config.epsilons)

    def read(self, split: str, levels: Sequence[float]) -> Samples:
        """The samples of one split, checked against the ids of that split.

        The images are those of the data set, where this process has them in memory, and else those of the files.

        Args:
          split: "train", "validation" or "test".
          levels: sizes of eps at which each image is seen; 0 is the clean image.

        Raises:
          UserError: the files are damaged or hold other images.
        """
        run, dataset = self._run, self._run.dataset
        folder = run.cache.open(self.entry)
        images = take(dataset.images[split].images, self._rows[split]) if dataset.in_memory else None
        samples, ids = stored.read(folder, split, levels, run.storage.allocate, images)
        if ids.tolist() != np.asarray(dataset.record[split])[self._rows[split]].tolist():
            raise UserError(f"{folder} holds other images than the split {split}: remove it.")
        return samples
