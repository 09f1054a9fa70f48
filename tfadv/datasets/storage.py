"""Where arrays of images lie: in memory, or in a file on the disk of which only the rows in use are read."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psutil

from tfadv.errors import UserError

AFFECTS_RESULTS = False  # the same values either way
MEMORY_SHARE = 0.25  # of the free memory that one array may take with "auto"
_CGROUP = pathlib.Path("/sys/fs/cgroup")

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of an array in some order, as an array (N, …) that reads a row when it is asked for.

    All splits and selections of a data set share its one array of pixels through these.

    Attributes:
      array: the array, in memory or mapped from a file.
      rows: int64 (N,), positions in `array`.
    """

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, …)."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Any) -> np.ndarray:
        if isinstance(positions, tuple):  # along other axes as well
            return self[:][positions]
        return np.asarray(self.array[self.rows[positions]])  # in memory, also where the array is a file

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


Images = np.ndarray | Rows


def take(array: Images, positions: slice | range | np.ndarray) -> Rows:
    """Some rows of an array, without copying or reading them."""
    if isinstance(array, Rows):
        return Rows(array.array, array.rows[positions])
    return Rows(array, np.arange(len(array))[positions])


def parts(array: Images, most: int = 4096) -> Iterator[np.ndarray]:
    """The rows in order, at most `most` at a time, in memory."""
    for start in range(0, len(array), most):
        yield np.ascontiguousarray(array[start : start + most])


def concatenated(arrays: Sequence[Images], allocate: Allocate) -> Images:
    """Arrays one after another, in one that `allocate` creates; a single array as it is."""
    if len(arrays) == 1:
        return arrays[0]
    whole, row = allocate((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype), 0
    for part in (part for array in arrays for part in parts(array)):
        whole[row : row + len(part)] = part
        row += len(part)
    return whole


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, of its control group and of its own limits."""
    free = [psutil.virtual_memory().available]
    try:  # where there are control groups of version 2 and one of them has a limit
        free.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    process = psutil.Process()
    if hasattr(process, "rlimit"):  # on Linux
        used = process.memory_info()
        for kind, taken in ((psutil.RLIMIT_AS, used.vms), (psutil.RLIMIT_DATA, used.data)):
            limit = process.rlimit(kind)[0]
            if limit != psutil.RLIM_INFINITY:
                free.append(limit - taken)
    return max(0, min(free))


class Storage:
    """Creates arrays in memory, or in files that vanish with the process."""

    def __init__(self, in_memory: str = "auto", folder: pathlib.Path | None = None) -> None:
        """Takes the setting and a folder for files.

        Args:
          in_memory: "true", "false", or "auto": an array that would take more than `MEMORY_SHARE` of the free memory
            lies on the disk.
          folder: where files are created; None is the folder for temporary files.
        """
        self._in_memory, self._folder = in_memory, folder

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array with arbitrary values, an `np.memmap` where it lies on the disk.

        Raises:
          UserError: the disk has too little space.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size == 0 or self._in_memory == "true":
            return np.empty(shape, dtype)
        if self._in_memory == "auto" and size <= MEMORY_SHARE * free_memory():
            return np.empty(shape, dtype)
        # The file has no name, so that it vanishes with the process, however that ends.
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                if hasattr(os, "posix_fallocate"):  # a file with holes would kill the process where the disk fills up
                    os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            folder = self._folder or tempfile.gettempdir()
            raise UserError(
                f"can't write {size / 1e9:.1f} GB of images to a file in {folder} ({error.strerror}): free some space, "
                "give another --workdir, or --in_memory=true."
            )
