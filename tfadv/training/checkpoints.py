"""What a training run goes on from: its newest whole checkpoint."""

import json
import logging

import numpy as np

from tfadv.errors import UserError
from tfadv.store.files import write_json

LOG = logging.getLogger(__name__)
KEEP = 2  # the newest is worth nothing if it is the one that is damaged


class Checkpoints:
    """The checkpoints of one training run, artifacts of the work folder like any other."""

    def __init__(self, workdir, name, inputs):
        """`workdir`, `name` and `inputs` as in `Workdir.creating`."""
        self._workdir, self._name, self._inputs = workdir, name, inputs
        self.folder = workdir.root / name

    def exist(self):
        """bool, whether there is any."""
        return bool(self._steps())

    def load(self):
        """The newest whole checkpoint made from the same inputs; those that can't be used are removed.

        Returns:
          (state, arrays) as they were saved, or None where there is none.
        """
        for step in sorted(self._steps(), reverse=True):
            artifact = self._artifact(step)
            try:
                if self._workdir.is_current(artifact, self._inputs):
                    folder = self._workdir.open(artifact, "train")
                    with np.load(folder / "arrays.npz") as arrays:
                        return json.loads((folder / "state.json").read_text()), dict(arrays)
            except UserError as error:
                LOG.info("%s Going back to the one before.", str(error).split(" To rebuild")[0])
            self._workdir.remove(artifact)
        return None

    def save(self, step, state, arrays):
        """Writes a checkpoint, and removes all but the newest two.

        Args:
          step: int, steps made in all.
          state: dict, JSON.
          arrays: dict of name → numpy array.
        """
        need = sum(array.nbytes for array in arrays.values())
        with self._workdir.creating(self._artifact(step), self._inputs, need=need) as (folder, _):
            np.savez(folder / "arrays.npz", **arrays)
            write_json(folder / "state.json", state)
        for old in sorted(self._steps())[:-KEEP]:
            self._workdir.remove(self._artifact(old))

    def _artifact(self, step):
        return f"{self._name}/step-{step:08d}"

    def _steps(self):
        return [int(p.name.split("-")[1]) for p in self.folder.glob("step-*")]
