"""Where arrays of images lie: in memory, or in a file on the disk of which only the rows in use are read."""

from __future__ import annotations

import abc
import contextlib
import ctypes
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
_M_ARENA_MAX = -8  # of glibc's mallopt
_CGROUP = pathlib.Path("/sys/fs/cgroup")

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]


class LazyArray(abc.ABC):
    """An array (N, …) whose rows are computed when they are asked for.

    Attributes:
      shape: (N, …).
      dtype: the type of the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @abc.abstractmethod
    def read(self, positions: Any) -> np.ndarray:
        """The rows at an integer, a slice or an array of integers, in memory."""

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: Any) -> np.ndarray:
        return self[:][positions] if isinstance(positions, tuple) else self.read(positions)

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Rows(LazyArray):
    """Rows of an array in some order.

    All splits and selections of a data set share its one array of pixels through these.

    Attributes:
      array: the array, in memory or mapped from a file.
      rows: int64 (N,), positions in `array`.
    """

    def __init__(self, array: Images, rows: np.ndarray) -> None:
        """Takes the attributes."""
        self.array, self.rows = array, rows
        self.shape, self.dtype = (len(rows), *array.shape[1:]), array.dtype

    def read(self, positions: Any) -> np.ndarray:
        """See `LazyArray.read`."""
        return np.asarray(self.array[self.rows[positions]])


class Signs(LazyArray):
    """An int8 array of -127, 0 and 127, as FGSM's perturbations are, that takes two bits per value.

    Attributes:
      codes: uint8 (N, V / 4), four values in a byte, in memory or mapped from a file.
    """

    dtype = np.dtype(np.int8)
    _VALUES = np.array([0, 127, -127, 0], np.int8)
    # The four values of each byte, as one number, so that they are looked up together.
    _OF_BYTE = _VALUES[np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3].view(np.uint32).ravel()

    def __init__(self, codes: np.ndarray, shape: tuple[int, ...]) -> None:
        """`shape`: that of the values, (N, …)."""
        self.codes, self.shape = codes, shape

    @classmethod
    def allocate(cls, shape: tuple[int, ...], allocate: Allocate) -> Signs:
        """An array to be filled, whose memory a function creates."""
        return cls(allocate((shape[0], -(-math.prod(shape[1:]) // 4)), np.uint8), shape)

    @staticmethod
    def can_hold(values: np.ndarray) -> bool:
        """Whether an int8 array has no other values."""
        return bool(((values == 0) | (np.abs(values) == 127)).all())

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        flat = values.reshape(len(values), -1)
        padded = np.zeros((len(flat), 4 * self.codes.shape[1]), np.uint8)
        padded[:, : flat.shape[1]] = (flat > 0) + 2 * (flat < 0).astype(np.uint8)
        self.codes[rows] = padded[:, 0::4] | padded[:, 1::4] << 2 | padded[:, 2::4] << 4 | padded[:, 3::4] << 6

    def read(self, positions: Any) -> np.ndarray:
        """See `LazyArray.read`."""
        codes = np.asarray(self.codes[positions])
        values = np.take(self._OF_BYTE, codes).view(np.int8)[..., : math.prod(self.shape[1:])]
        return values.reshape(*codes.shape[:-1], *self.shape[1:])


Images = np.ndarray | LazyArray


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
    shape, row = (sum(map(len, arrays)), *arrays[0].shape[1:]), 0
    all_signs = all(isinstance(array, Signs) for array in arrays)
    whole = Signs.allocate(shape, allocate) if all_signs else allocate(shape, arrays[0].dtype)
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


def give_back_memory() -> None:
    """Returns memory that Python and TensorFlow have freed to the system; the C library would keep much of it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems and C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def limit_memory_pools() -> None:
    """Lets the C library keep one pool of freed memory per core, not eight; call it before threads start.

    A thread that frees memory keeps it in the pool it came from: with few cores, training then held a third more.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, os.cpu_count() or 1)


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
