"""The artifacts `surrogate/…` and `rounds/…`: a model's FGSM perturbations, a TFDS folder of TFRecords."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.fgsm import direction
from tfadv.datasets import short_name, stored
from tfadv.datasets.batches import Samples, full_batches, to_float
from tfadv.datasets.splits import draw_balanced
from tfadv.datasets.storage import Images, take
from tfadv.errors import UserError
from tfadv.experiments.graph import Artifact, PartedArtifact
from tfadv.runtime.devices import Devices
from tfadv.store.files import link

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel


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


class StoredSamples(PartedArtifact):
    """The stored samples, and how they are read; one part is one TFRecord file."""

    def __init__(
        self,
        context: Context,
        splits: DatasetSplits,
        surrogate: TrainedModel,
        folder: str = "surrogate",
        stage: str = "generate",
    ) -> None:
        """Takes the images and the model that they are attacked on.

        Args:
          context: settings, work folder and devices.
          splits: the images.
          surrogate: the model whose perturbations are stored.
          folder: where they are stored, a path in the work folder.
          stage: the stage that builds them.
        """
        self._context, self._config, self._splits = context, context.config, splits
        self.rebuild = f"the same command with --stage={stage}"
        self.surrogate = surrogate
        self._tfds_name = f"{short_name(self._config.dataset)}_surrogate"
        self.name = f"{folder}/{self._tfds_name}/{stored.VERSION}"

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the surrogate."""
        return {"split": self._splits, "weights": self.surrogate}

    def settings(self) -> dict:
        """The surrogate's name and the attack."""
        return {"surrogate": self.surrogate.model, "attack": "fgsm"}

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Split name → which of its images are stored, positions in the split."""
        return {split: np.arange(n) for split, n in self._splits.sizes.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Split name → number of its images that are stored."""
        return {split: len(rows) for split, rows in self._rows.items()}

    def bytes_needed(self) -> int:
        """The bytes of the largest file."""
        return max(map(len, self.pieces())) * stored.sample_bytes(self._splits.shape)

    def pieces(self) -> list[stored.SampleFile]:
        """The TFRecord files."""
        return stored.sample_files(self.sizes, self._splits.shape)

    def build_part(
        self, folder: pathlib.Path, piece: stored.SampleFile, progress: Callable[[int], Any], resume: Any
    ) -> None:
        """Perturbs the images of one file and writes it."""
        split = self._splits.images[piece.split]
        rows = self._rows[piece.split][piece.start : piece.stop]
        images, labels, ids = take(split.images, rows), split.labels[rows], split.ids[rows]
        with self.surrogate.loaded() as model:
            batches = perturbations(
                model,
                images,
                labels,
                batch_size=self._config.images_at_once,
                devices=self._context.devices,
                progress=progress,
            )
            stored.write_file(folder, self._tfds_name, piece, (images, labels, ids), batches)

    def join(self, folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> None:
        """Puts the files together and writes the metadata of TFDS."""
        for part in parts:
            for path in part.glob("*.tfrecord-*"):
                link(path, folder / path.name)
        splits, surrogate = self._splits, self.surrogate.model
        dataset = splits.record["dataset"]
        manifest["dataset"] = dataset
        manifest["epsilons"] = list(self._config.epsilons)  # the samples serve any other eps as well
        manifest["counts"] = self.sizes
        stored.write_metadata(
            folder,
            self._tfds_name,
            self.pieces(),
            shape=splits.shape,
            class_names=splits.class_names,
            description=f"FGSM perturbations of {dataset} by {surrogate}: "
            "adversarial image = clip(image / 255 + eps * perturbation / 127, 0, 1).",
        )

    @functools.cached_property
    def test(self) -> Samples:
        """The test split at every eps."""
        return self.read("test", self._config.epsilons)

    def read(self, split: str, levels: Sequence[float], images: Images | None = None) -> Samples:
        """The samples of one split, checked against the ids of that split.

        The images are those of the data set, where this process has them in memory, and else those of the files.

        Args:
          split: "train", "validation" or "test".
          levels: sizes of eps at which each image is seen; 0 is the clean image.
          images: the images of these samples, where they were read before.

        Raises:
          UserError: the files are damaged or hold other images.
        """
        folder = self._context.graph.open(self)
        if images is None and self._splits.in_memory:
            images = take(self._splits.images[split].images, self._rows[split])
        samples, ids = stored.read(folder, split, levels, self._context.storage.allocate, images)
        if ids.tolist() != np.asarray(self._splits.record[split])[self._rows[split]].tolist():
            raise UserError(f"{folder} holds other images than the split {split}: remove it.")
        return samples


class DrawnSamples(StoredSamples):
    """The stored samples of one of many rounds: few training and validation images, drawn for this round."""

    def __init__(
        self, context: Context, splits: DatasetSplits, surrogate: TrainedModel, folder: str, round_number: int
    ) -> None:
        """Takes the number of the round; the other arguments are those of `StoredSamples`."""
        super().__init__(context, splits, surrogate, folder, stage="retrain")
        self._number = round_number

    def settings(self) -> dict:
        """Also the draw."""
        draw = {"round": self._number, "round_size": self._config.round_size, "seed": self._config.seed}
        return super().settings() | draw

    @functools.cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """`--round_size` training images, the same share of the validation images, no test images."""
        images, size = self._splits.images, self._config.round_size
        share = size / len(images["train"].labels)
        sizes = {"train": size, "validation": max(1, round(share * len(images["validation"].labels)))}
        return {
            split: draw_balanced(images[split].labels, size, (self._config.seed, self._number, stream))
            for stream, (split, size) in enumerate(sizes.items())
        }
