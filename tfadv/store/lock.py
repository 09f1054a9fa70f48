"""Keeps two processes from writing to one folder, on any operating system."""

from __future__ import annotations

import pathlib

import filelock

from tfadv.errors import UserError
from tfadv.store.files import UNSUPPORTED, warn_once

# Another shard holds `.lock` for some milliseconds while it starts.
STARTING_SECONDS = 1.0


class FolderLock:
    """A folder locked for this process alone, or for one shard beside other shards.

    A process that works alone holds `.lock`.  A shard holds `.lock-i-of-n`, and
    takes `.lock` only while it acquires that.  So whoever holds `.lock` sees
    all shards that are at work and no new ones.  The operating system releases
    the locks of a killed process.
    """

    def __init__(self, folder: pathlib.Path, shard: tuple[int, int] | None = None) -> None:
        """Acquires the lock.

        Args:
          folder: an existing folder.
          shard: (i, n) for a process that computes shard i of n; None for one that works alone.

        Raises:
          UserError: the folder, or this shard of it, is in use.
          OSError: the folder can't be written.
        """
        self._folder = folder
        self._locks: list[filelock.BaseFileLock] = []
        try:
            whole = self._acquire(".lock", "another tfadv process is using", STARTING_SECONDS)
            if shard:
                self._acquire(f".lock-{shard[0]}-of-{shard[1]}", "the same shard is being computed in")
                whole.release()
            else:
                for path in folder.glob(".lock-*-of-*"):
                    self._acquire(path.name, "another tfadv process is using").release()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Lets other processes in."""
        while self._locks:
            self._locks.pop().release()

    def _acquire(self, name: str, cause: str, seconds: float = 0.0) -> filelock.BaseFileLock:
        lock = filelock.FileLock(str(self._folder / name), thread_local=False)
        self._locks.append(lock)
        try:
            lock.acquire(timeout=seconds)
        except filelock.Timeout:
            raise UserError(f"{cause} {self._folder}: wait until it ends, or give another --workdir.") from None
        except (OSError, NotImplementedError) as error:  # older versions raise the second for a drive without locks
            if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
                raise
            warn_once(f"{self._folder} can't be locked ({error}): do not let a second process write to it.")
        return lock
