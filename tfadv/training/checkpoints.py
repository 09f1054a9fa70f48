"""A training run that goes on where it was stopped, at the last finished epoch."""

import json
import logging
import shutil

import keras
import numpy as np

from tfadv.errors import UserError
from tfadv.workdir import write_json

LOG = logging.getLogger(__name__)
KEEP = 2  # the newest is worth nothing if it is the one that is damaged


class Checkpoints(keras.callbacks.Callback):
    """Saves all that the next epoch depends on, and brings it back.

    That is: weights, optimizer state, the best weights so far, and what early
    stopping and the history have counted.  Order and augmentation of the images
    follow from (seed, epoch, step), so no random state is needed.  Put it behind
    `EarlyStopping` in the list of callbacks.
    """

    def __init__(self, workdir, name, inputs, stopping):
        """`name` and `inputs` as in `Workdir.creating`; `stopping` is the run's `EarlyStopping`."""
        super().__init__()
        self._workdir, self._name, self._inputs, self._stopping = workdir, name, inputs, stopping
        self.history, self._state, self._arrays = {}, None, None

    def load(self):
        """Finds the newest whole checkpoint made from the same inputs, and removes those it can't use.

        Returns:
          int, the number of epochs it has behind it; 0 where there is none.
        """
        for epoch in sorted(self._epochs(), reverse=True):
            artifact = self._artifact(epoch)
            try:
                if self._workdir.is_current(artifact, self._inputs):
                    self._read(self._workdir.open(artifact, "train"))
                    LOG.info("%s: going on after epoch %d", self._name, epoch)
                    return epoch
            except UserError as error:
                LOG.info("%s Going back to the one before.", str(error).split(" To rebuild")[0])
            shutil.rmtree(self._workdir.root / artifact)
        return 0

    def _read(self, folder):
        self._state = json.loads((folder / "state.json").read_text())
        self.history = self._state["history"]
        with np.load(folder / "arrays.npz") as arrays:
            self._arrays = {key: arrays[key] for key in arrays.files}

    def on_train_begin(self, logs=None):
        if self._state is None:
            return
        _assign(self.model.weights, self._arrays, "weight")
        _assign(self.model.optimizer.variables, self._arrays, "optimizer")
        for field in ("wait", "best", "best_epoch"):
            setattr(self._stopping, field, self._state[field])
        self._stopping.best_weights = [self._arrays[f"best{i}"] for i in range(len(self.model.weights))]

    def on_epoch_end(self, epoch, logs=None):
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        if self.model.stop_training or epoch + 1 == self.params["epochs"]:
            return  # the model itself is about to be written
        stopping = self._stopping
        with self._workdir.creating(self._artifact(epoch + 1), self._inputs) as (folder, _):
            groups = {
                "weight": [v.numpy() for v in self.model.weights],
                "optimizer": [v.numpy() for v in self.model.optimizer.variables],
                "best": stopping.best_weights,
            }
            np.savez(
                folder / "arrays.npz", **{f"{k}{i}": a for k, group in groups.items() for i, a in enumerate(group)}
            )
            state = {field: getattr(stopping, field) for field in ("wait", "best", "best_epoch")}
            state = {key: value.item() if hasattr(value, "item") else value for key, value in state.items()}
            write_json(folder / "state.json", state | {"history": self.history})
        for old in sorted(self._epochs())[:-KEEP]:
            shutil.rmtree(self._workdir.root / self._artifact(old))

    def _artifact(self, epoch):
        return f"{self._name}/epoch-{epoch:04d}"

    def _epochs(self):
        return [int(p.name.split("-")[1]) for p in (self._workdir.root / self._name).glob("epoch-*")]


def _assign(variables, arrays, key):
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{key}{i}"])
