"""Saves the finished units of a long computation and the state within the next one, so that it can be resumed.

A deterministic computation calls `load` at the start of each unit, `partial`
now and then within it, and `done` at its end.  If it is started again on the
same folder, `load` returns what was saved, unit by unit, and it computes the rest.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pathlib
import re
import time
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from tfadv.store.files import warn_once

LOG = logging.getLogger(__name__)
# unit, step ("done" for a finished unit), the start of the SHA-256 of the file
_NAME = re.compile(r"([0-9]{6,})-(done|step[0-9]+)-([0-9a-f]{16})\.npz")

Saved = tuple[str, list[np.ndarray]] | tuple[str, int, list[np.ndarray]]


class ResumeLog:
    """The finished and partial units of one computation, in numbered files of a folder.

    Files are written every `interval` seconds at most, so a kill loses that
    much work and the writing costs little however short the units are.  A
    damaged file is ignored, with all that comes after it.
    """

    def __init__(self, folder: str | os.PathLike[str], interval: float = 20.0) -> None:
        """Reads which units the folder holds.

        Args:
          folder: an existing folder of this computation alone, such as `Workdir.scratch` gives.
          interval: seconds between two writes.
        """
        self._folder = pathlib.Path(folder)
        self._interval = interval
        self._unit = -1
        self._written = time.monotonic()
        self._waiting: dict[int, list[np.ndarray]] = {}  # finished units that are not on the disk yet
        self._files: dict[int, pathlib.Path] = {}
        self._children: dict[str, ResumeLog] = {}
        for path in sorted(self._folder.iterdir()):  # "done" sorts before "step"
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) not in self._files:
                self._files[int(match[1])] = path
            elif match or path.name.startswith(".tmp-"):  # of a process that was killed while it wrote
                path.unlink()

    def child(self, name: str) -> ResumeLog:
        """The log of a computation that runs beside others of this one, in a folder of this name within this folder."""
        if name not in self._children:
            folder = self._folder / name
            folder.mkdir(exist_ok=True)
            self._children[name] = ResumeLog(folder, self._interval)
        return self._children[name]

    def load(self) -> Saved | None:
        """Begins the next unit.

        Returns:
          ("done", arrays) as given to `done`; ("partial", step, arrays) as given to `partial`; None where
          the unit has to be computed from its start.
        """
        self._unit += 1
        path = self._files.get(self._unit)
        arrays = _read(path) if path else None
        if path is None or arrays is None:
            if path is not None:
                LOG.info("%s is damaged: what it holds and all after it is computed again.", path)
            self._remove(self._unit)
            return None
        step = _NAME.fullmatch(path.name)[2]  # type: ignore[index]  # only matching names are in _files
        return ("done", arrays) if step == "done" else ("partial", int(step.removeprefix("step")), arrays)

    def partial(self, step: int, arrays_fn: Callable[[], Sequence[np.ndarray]]) -> None:
        """Saves the state within the unit if it is time to.

        Args:
          step: >= 0, how far the unit is.
          arrays_fn: returns the state: arrays of booleans or numbers.  It is called only where they are saved.
        """
        if self._is_time():
            self._save(f"step{step}", arrays_fn())

    def done(self, arrays: Sequence[np.ndarray]) -> None:
        """Ends the unit.

        Args:
          arrays: its result: arrays of booleans or numbers.  They are copied.
        """
        self._waiting[self._unit] = [np.array(array) for array in arrays]
        if self._is_time():
            self._save()

    def _is_time(self) -> bool:
        return time.monotonic() >= self._written + self._interval

    def _save(self, step: str = "", arrays: Sequence[np.ndarray] = ()) -> None:
        """Writes the finished units that wait, in order, and then the state within the present one."""
        try:
            for unit, result in list(self._waiting.items()):
                self._write(unit, "done", result)
                del self._waiting[unit]
            if step:
                self._write(self._unit, step, arrays)
        except OSError as error:  # a full disk must not end a computation that does not need this file
            warn_once(f"can't save the state of unfinished work in {self._folder} ({error.strerror or error}).")
        self._written = time.monotonic()

    def _write(self, unit: int, step: str, arrays: Sequence[np.ndarray]) -> None:
        content = _encode(arrays)
        path = self._folder / f"{unit:06d}-{step}-{hashlib.sha256(content).hexdigest()[:16]}.npz"
        temporary = self._folder / f".tmp-{path.name}"
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        old = self._files.get(unit)
        self._files[unit] = path
        if old and old != path:
            old.unlink(missing_ok=True)

    def _remove(self, first: int) -> None:
        """Removes the files of all units from `first` on."""
        for unit in [u for u in self._files if u >= first]:
            self._files.pop(unit).unlink(missing_ok=True)


def _encode(arrays: Sequence[np.ndarray]) -> bytes:
    arrays = [np.asarray(array) for array in arrays]
    for array in arrays:
        if array.dtype.kind not in "biufc":
            raise ValueError(f"arrays of {array.dtype} can't be saved: convert them to booleans or numbers.")
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def _read(path: pathlib.Path) -> list[np.ndarray] | None:
    """The arrays of a file, or None where it is damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != path.stem.rsplit("-", 1)[1]:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return [file[f"arr_{i}"] for i in range(len(file.files))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
