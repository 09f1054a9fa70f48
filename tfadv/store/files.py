"""Files that survive a kill: atomic writes, checksums, room on the disk."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from tfadv.errors import UserError

LOG = logging.getLogger(__name__)
# How a drive answers that it has no fsync, or no locks.
UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_warned: set[str] = set()


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def source_of(thing: object) -> str | None:
    """A hash of the source file of a plugin's class or function; None for tfadv's own, whose version counts."""
    module = inspect.getmodule(thing)
    if module is None or module.__name__.partition(".")[0] == "tfadv" or not getattr(module, "__file__", None):
        return None
    return file_digest(str(module.__file__))


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 1) -> None:
    """Writes a JSON file atomically: a reader sees the old content or the new one, never a part."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".tmp-{path.name}")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")
        file.flush()
        _fsync(file.fileno())
    os.replace(temporary, path)


def sync(path: str | os.PathLike[str]) -> None:
    """Waits until a file or folder is on the disk: after a power cut, a rename may be there and its file may not."""
    if os.name == "nt":
        if os.path.isdir(path):
            return  # Windows does not open folders
        number = os.open(path, os.O_RDWR)  # and flushes only files open for writing
    else:
        number = os.open(path, os.O_RDONLY)
    try:
        _fsync(number)
    finally:
        os.close(number)


def _fsync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        warn_once(f"this drive has no fsync ({error.strerror}): a power cut may damage the newest files.")


def warn_once(message: str) -> None:
    """Logs a warning the first time that this process has it."""
    if message not in _warned:
        _warned.add(message)
        LOG.warning("%s", message)


def link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Makes a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_room(folder: str | os.PathLike[str], name: str, need: int) -> None:
    """Checks that the disk has room for an entry.

    Args:
      folder: an existing folder on that disk.
      name: the entry, for the error message.
      need: its size in bytes.

    Raises:
      UserError: there are fewer than `need` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"the disk is full: {name} needs {megabytes(need)}, {folder} has {megabytes(free)} left. "
            "Make room and give the same command again, or give another --workdir; finished work is kept."
        )


def megabytes(size: float) -> str:
    """A number of bytes as text, such as "12.3 MB"."""
    return f"{size / 1e6:.1f} MB"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two dicts differ, as "field: old → new"; a missing field equals None."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def in_brief(changed: Iterable[str]) -> str:
    """What `differences` returns, for a message: of long values, the field alone."""
    return "; ".join(each if len(each) < 100 else each.split(":")[0] for each in changed)
