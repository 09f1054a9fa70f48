"""Checkpoints: a training run resumes from the newest one that is complete."""

from __future__ import annotations

import contextlib
import json
import logging
import time

import numpy as np

from tfadv.errors import UserError
from tfadv.store.files import differences, in_brief, write_json
from tfadv.store.workdir import Workdir

LOG = logging.getLogger(__name__)
KEEP = 2  # so that one remains if the newest is damaged


class Checkpoints:
    """The checkpoints of one training run, entries of the work folder."""

    def __init__(self, workdir: Workdir, name: str, inputs: dict) -> None:
        """Takes what `Workdir.creating` takes; `inputs` are as JSON gives them back."""
        self._workdir, self._name, self._inputs = workdir, name, inputs
        self.folder = workdir.root / name
        self._started, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """How long training took: since this object was made, and until the checkpoint that was loaded."""
        return self._before + time.monotonic() - self._started

    def exist(self) -> bool:
        """Whether there is any checkpoint."""
        return bool(self._steps())

    def check(self, overwrite: bool) -> None:
        """Checks that the checkpoints are of this training run, and not of an unfinished one with other inputs.

        Args:
          overwrite: whether those of another one are removed; all workers of a distributed run call this.

        Raises:
          UserError: they are of another one and are kept: hours of work are not lost by a mistyped setting.
        """
        others = self._others()
        if others and not overwrite:
            raise UserError(
                f"{self.folder} was made with other settings or files ({in_brief(next(iter(others.values())))}): give "
                "the earlier ones to continue that training, another --workdir, or --overwrite to start anew."
            )
        for step in others:
            self._workdir.remove(self._entry(step))

    def load(self) -> tuple[dict, dict[str, np.ndarray]] | None:
        """The newest complete checkpoint of the same inputs; unusable ones are removed.

        Returns:
          (state, arrays) as they were saved, or None where there is none.
        """
        for step in sorted(self._steps(), reverse=True):
            entry = self._entry(step)
            try:
                if self._workdir.is_current(entry, self._inputs):
                    folder = self._workdir.open(entry)
                    with np.load(folder / "arrays.npz") as arrays:
                        state = json.loads((folder / "state.json").read_text())
                        self._before = state.pop("seconds", 0.0)  # those of version 0.3.0 have none
                        return state, dict(arrays)
            except UserError as error:
                LOG.info("%s Resuming from the checkpoint before.", str(error).split(" To rebuild")[0])
            self._workdir.remove(entry)
        return None

    def save(self, step: int, state: dict, arrays: dict[str, np.ndarray]) -> None:
        """Writes a checkpoint, and removes all except the newest two.

        Args:
          step: steps completed in all.
          state: JSON values.
          arrays: name → array.
        """
        need = sum(array.nbytes for array in arrays.values())
        with self._workdir.creating(self._entry(step), self._inputs, need=need) as (folder, _):
            np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]  # the keywords are names of arrays
            write_json(folder / "state.json", state | {"seconds": self.seconds})
        for old in sorted(self._steps())[:-KEEP]:
            self._workdir.remove(self._entry(old))

    def remove(self) -> None:
        """Removes all checkpoints of this run, which no worker reads any more; those of another one are kept."""
        if not self._workdir.follower and not self._others():
            self._workdir.discard(self._name)

    def _others(self) -> dict[int, list[str]]:
        """Step of each checkpoint of another training → how its inputs differ; damaged ones are left out."""
        others = {}
        for step in self._steps():
            with contextlib.suppress(UserError):
                manifest = self._workdir.manifest(self._entry(step))
                if manifest and (changed := differences(manifest["inputs"], self._inputs)):
                    others[step] = changed
        return others

    def _entry(self, step: int) -> str:
        return f"{self._name}/step-{step:08d}"

    def _steps(self) -> list[int]:
        return [int(p.name.split("-")[1]) for p in self.folder.glob("step-*")]
