"""The first artifact: which image of the data set is in which split, and the images by it."""

import functools
import json
import logging

import numpy as np

from tfadv import datasets
from tfadv.datasets import sources, split
from tfadv.errors import UserError
from tfadv.store.files import write_json

LOG = logging.getLogger(__name__)


class Division:
    """The division of a work folder, `split/division.json`, made when first asked for."""

    def __init__(self, config, run, workdir, artifacts):
        """Takes what a `Pipeline` has."""
        self._config, self._run, self._workdir, self._artifacts = config, run, workdir, artifacts

    @functools.cached_property
    def _pool(self):
        pool = sources.load(self._config.dataset, self._run.data_dir, self._config.image_size)
        LOG.info("%s: %d images, %d classes", pool.full_name, len(pool.labels), len(pool.class_names))
        return pool

    def make(self):
        """Divides the data set, where that is not done; str, the content hash."""
        config = self._config
        inputs = {
            "dataset": config.dataset,
            "image_size": config.image_size,
            "seed": config.seed,
            "train_size": config.train_size,
        }
        return self._artifacts.make("split", inputs, self._divide)

    def _divide(self, folder, manifest):
        pool = self._pool
        division = split.divide(pool.labels, self._config.seed, self._config.train_size)
        names = pool.class_names
        manifest["counts"] = {
            part: dict(zip(names, np.bincount(pool.labels[rows], minlength=len(names)).tolist()))
            for part, rows in division.items()
        }
        record = {
            "dataset": pool.full_name,
            "images": len(pool.labels),
            "images_sha256": pool.digest(),
            "class_names": names,
            **{part: rows.tolist() for part, rows in division.items()},
        }
        write_json(folder / "division.json", record, indent=None)

    @functools.cached_property
    def record(self):
        """dict: "dataset" (TFDS name and version), "class_names", and the rows of "train", "validation" and "test"."""
        self.make()
        return json.loads((self._workdir.open("split", "prepare") / "division.json").read_text())

    def counts(self):
        """dict of part → number of its images."""
        return {part: len(self.record[part]) for part in split.SPLITS}

    @property
    def shape(self):
        """(H, W, C) of the images."""
        return self._config.image_size, self._config.image_size, datasets.SOURCES[self._config.dataset].channels

    @functools.cached_property
    def images(self):
        """dict of part → (images uint8 (N, H, W, C), labels int64 (N,), ids int64 (N,)).

        Raises:
          UserError: the data set is another one than that which was divided.
        """
        record, pool = self.record, self._pool
        if pool.digest() != record["images_sha256"]:
            raise UserError(
                f"the images of {pool.full_name} in {self._run.data_dir} are not those that {self._workdir.root} was "
                "made from: bring them back, or give another --workdir."
            )
        rows = {part: np.asarray(record[part], np.int64) for part in split.SPLITS}
        return {part: (pool.images[r], pool.labels[r], r) for part, r in rows.items()}
