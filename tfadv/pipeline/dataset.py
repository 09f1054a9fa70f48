"""The images of a run: which image of the data set is in which split."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import logging
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from tfadv.datasets import find, reader, sources, splits
from tfadv.datasets.image_folder import image_files
from tfadv.datasets.storage import Images, parts, take
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.pipeline.cached import Entry
from tfadv.store.files import digest, source_of, write_json

if TYPE_CHECKING:
    from tfadv.pipeline.run import Run

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SplitImages:
    """The images of one split: uint8 (N, H, W, C), labels int64 (N,), and ids int64 (N,), rows of the data set."""

    images: Images
    labels: np.ndarray
    ids: np.ndarray


class SplitDataset:
    """The data set of a run and its splits; images are loaded when they are first used."""

    def __init__(self, run: Run) -> None:
        """Reads the list of a folder's files, and looks up or makes the splits."""
        self._run, self._config = run, run.config
        self.entry: Entry = run.cache.cached("split", self._inputs, self._build, stage="prepare", keep=True)

    def _inputs(self) -> dict:
        """The data set and how it is split."""
        config = self._config
        found = find(config.dataset, config.fit)
        return {
            "dataset": config.dataset,
            "dataset_entry": dataclasses.asdict(found),
            "label": config.label,
            "files": _listing(config.dataset),
            "source": _source(found.builder),
            "image_size": config.image_size,
            "seed": config.seed,
            "split": config.split,
            "train_size": config.train_size,
        }

    def _build(self, folder: pathlib.Path, manifest: dict, resume: object) -> None:
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
    def _dataset(self) -> sources.ImageDataset:
        config, allocate = self._config, self._run.storage.allocate
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
        return json.loads((self._run.cache.open(self.entry) / "splits.json").read_text())

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Split name → number of its images."""
        return {split: len(self.record[split]) for split in splits.SPLITS}

    @functools.cached_property
    def counts(self) -> dict[str, list[int]]:
        """Split name → number of its images of each class."""
        manifest = self._run.workdir.manifest(self.entry.name)
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

    @functools.cached_property
    def _own_channels(self) -> int:
        """The channels of images that the user's own models take; 0 where there are none or this is not known.

        Raises:
          UserError: the models take different numbers.
        """
        models = [name for name in (*self._config.models, self._config.surrogate) if own.is_own(name)]
        taken = {channels: name for name in models if (channels := own.channels(name)) in (1, 3)}
        if len(taken) > 1:
            raise UserError(
                f"{taken[1]} takes grey images and {taken[3]} takes colour images: give them separate runs."
            )
        return next(iter(taken), 0)

    @functools.cached_property
    def in_random_order(self) -> bool:
        """Whether the first test images are a random sample of all: they are of one official split, which is mixed."""
        dataset, rows = self._dataset, self.record["test"]
        of_one = any(min(rows) in split and max(rows) in split for split in dataset.official_splits.values())
        return of_one and dataset.random_order

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
                f"{self._run.workdir.root} was built from: restore them, or give another --workdir."
            )
        if self._own_channels not in (0, record["shape"][2]):
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
        converted, row = self._run.storage.allocate((len(images), *self.shape), np.uint8), 0
        for part in parts(images):
            converted[row : row + len(part)] = sources.with_channels(part, self.shape[2])
            row += len(part)
        return converted


def _listing(dataset: str) -> str:
    """A hash of the names, sizes and dates of the images of a folder or of an .npz file; "" for data sets of TFDS."""
    read = reader(dataset)
    if not read:
        return ""
    path = read[1]
    files = image_files(path) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(stats)


def _source(builder: str | None) -> str | None:
    """The source of a data set's builder, "module:class", where a plugin brings it."""
    return (
        source_of(getattr(importlib.import_module(builder.split(":")[0]), builder.split(":")[1])) if builder else None
    )
