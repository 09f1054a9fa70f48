"""The artifact `split`: which image of the data set is in which split; and the images by split."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tfadv.datasets import find, reader, sources, splits
from tfadv.datasets.storage import Images, parts, take
from tfadv.errors import UserError
from tfadv.experiments.graph import WholeArtifact
from tfadv.models import own
from tfadv.store.files import digest, write_json

if TYPE_CHECKING:
    from tfadv.experiments.context import Context

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SplitImages:
    """The images of one split: uint8 (N, H, W, C), labels int64 (N,), and ids int64 (N,), rows of the data set."""

    images: Images
    labels: np.ndarray
    ids: np.ndarray


class DatasetSplits(WholeArtifact):
    """The splits of the data set of a work folder."""

    name = "split"
    rebuild = "the same command with --stage=prepare"

    def __init__(self, context: Context) -> None:
        """Takes the context whose settings choose the data set."""
        self._context, self._config = context, context.config

    def inputs(self) -> dict:
        """No artifact."""
        return {}

    def settings(self) -> dict:
        """The data set and how it is split."""
        config = self._config
        return {
            "dataset": config.dataset,
            "dataset_entry": dataclasses.asdict(find(config.dataset, config.fit)),
            "label": config.label,
            "files": self._files,
            "image_size": config.image_size,
            "seed": config.seed,
            "split": config.split,
            "train_size": config.train_size,
        }

    def code(self) -> tuple:
        """This module, and that of the data set's own builder or reader, where it has one."""
        builder, read = find(self._config.dataset).builder, reader(self._config.dataset)
        return (type(self).__module__, *([builder.split(":")[0]] if builder else []), *(read or ())[:1])

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Writes splits.json: the rows of each split, and the hash of the images that they refer to."""
        config, dataset = self._config, self._dataset
        names = dataset.class_names
        splits.check_classes(dataset.labels, names, config.train_size)
        if config.split == "official":
            rows = splits.official_splits(dataset.labels, dataset.official_splits, config.seed, config.train_size)
        else:
            if "test" in dataset.official_splits and any(map(own.is_own, config.models)):
                LOG.warning(
                    "the test images may contain images that your model was trained on: --split=official keeps the "
                    "data set's own test split"
                )
            rows = splits.stratified_splits(dataset.labels, config.seed, config.train_size)
        manifest["counts"] = {
            split: dict(zip(names, np.bincount(dataset.labels[those], minlength=len(names)).tolist()))
            for split, those in rows.items()
        }
        record = {
            "dataset": dataset.full_name,
            "images": len(dataset.labels),
            "shape": dataset.images.shape[1:],
            "images_sha256": dataset.digest(),
            "class_names": names,
            **{split: those.tolist() for split, those in rows.items()},
        }
        write_json(folder / "splits.json", record, indent=None)

    @functools.cached_property
    def _files(self) -> str:
        """What `_listing` says, once per run: every question to the graph asks for these settings."""
        return _listing(self._config.dataset)

    @functools.cached_property
    def _dataset(self) -> sources.ImageDataset:
        config, allocate = self._config, self._context.storage.allocate
        dataset = sources.load(config.dataset, config.data_dir, config.image_size, config.label, config.fit, allocate)
        LOG.info("%s: %d images, %d classes", dataset.full_name, len(dataset.labels), len(dataset.class_names))
        return dataset

    @property
    def in_memory(self) -> bool:
        """Whether this process has decoded the images, so that `images` costs nothing."""
        return "_dataset" in self.__dict__

    @functools.cached_property
    def record(self) -> dict:
        """Keys "dataset" (TFDS name and version), "class_names", and the rows of "train", "validation" and "test"."""
        return json.loads((self._context.graph.open(self) / "splits.json").read_text())

    @property
    def sizes(self) -> dict[str, int]:
        """Split name → number of its images."""
        return {split: len(self.record[split]) for split in splits.SPLITS}

    @property
    def counts(self) -> dict[str, list[int]]:
        """Split name → number of its images of each class."""
        manifest = self._context.workdir.manifest(self.name)
        assert manifest is not None
        return {split: list(manifest["counts"][split].values()) for split in splits.SPLITS}

    @property
    def class_names(self) -> list[str]:
        """One per class."""
        return self.record["class_names"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images, with the channels that the user's own models take."""
        height, width, channels = self.record["shape"]
        return height, width, self._own_channels or channels

    @property
    def conversion(self) -> dict[str, int]:
        """The setting "channels" of models where the images are converted for them; builds nothing."""
        if not self._own_channels or self._context.graph.current(self) is None:
            return {}
        return {} if self._own_channels == self.record["shape"][2] else {"channels": self._own_channels}

    @functools.cached_property
    def _own_channels(self) -> int:
        """The channels of images that the user's own models take; 0 where there are none or this is not known.

        Raises:
          UserError: the models take different numbers.
        """
        models = [name for name in (*self._config.models, *self._config.surrogate) if own.is_own(name)]
        taken = {channels: name for name in models if (channels := own.channels(name)) in (1, 3)}
        if len(taken) > 1:
            raise UserError(
                f"{taken[1]} takes grey images and {taken[3]} takes colour images: give them separate runs."
            )
        return next(iter(taken), 0)

    @functools.cached_property
    def images(self) -> dict[str, SplitImages]:
        """Split name → its images, all of them rows of one array.

        Raises:
          UserError: the data set differs from the one that was split.
        """
        record, dataset = self.record, self._dataset
        if dataset.digest() != record["images_sha256"]:
            raise UserError(
                f"the images of {dataset.full_name} in {self._config.data_dir} are not those that "
                f"{self._context.workdir.root} was built from: restore them, or give another --workdir."
            )
        if self.conversion:
            of, to = ("grey", "three equal channels") if self._own_channels == 3 else ("in colour", "grey")
            LOG.info("the images of %s are %s; they are converted to %s for your model", dataset.full_name, of, to)
        rows = {split: np.asarray(record[split], np.int64) for split in splits.SPLITS}
        return {
            split: SplitImages(self._converted(take(dataset.images, r)), dataset.labels[r], r)
            for split, r in rows.items()
        }

    def _converted(self, images: Images) -> Images:
        """The images with the channels of `shape`."""
        if images.shape[1:] == self.shape:
            return images
        converted, row = self._context.storage.allocate((len(images), *self.shape), np.uint8), 0
        for part in parts(images):
            converted[row : row + len(part)] = sources.with_channels(part, self.shape[2])
            row += len(part)
        return converted


def _listing(dataset: str) -> str:
    """A hash of the names, sizes and dates of the files of a folder or .npz file; "" for data sets of TFDS."""
    read = reader(dataset)
    if not read:
        return ""
    path = read[1]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(stats)
