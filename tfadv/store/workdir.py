"""The work folder: entries that are written atomically, belong to their inputs, and are checked when they are opened.

An entry is a folder with a `manifest.json`, which holds what the entry
was computed from (`inputs`), a hash of what it is (`content`, which entries
that depend on it name among their inputs), what a user does to rebuild it
(`rebuild`), and the size and SHA-256 of each file.  `seal` is the SHA-256 of
the manifest itself.  Nothing here knows what the entries are.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfadv.errors import UserError
from tfadv.store.files import DISK_FULL, check_room, differences, digest, file_digest, megabytes, sync, write_json
from tfadv.store.lock import FolderLock

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"
SCRATCH_INPUTS = "inputs.json"


class Workdir:
    """The folder of one run; a context manager that keeps other processes out of it.

    Attributes:
      root: its path.
      follower: whether this process is a worker of a distributed run other than its chief.  It reads
        entries; those it computes are discarded.
      barrier: function that waits for all workers of a distributed run; does nothing in any other run.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, shard: tuple[int, int] | None = None, follower: bool = False
    ) -> None:
        """Opens a folder, or creates it.

        Args:
          root: path of the folder.
          shard: (i, n) where this process computes shard i of n beside others; else None.
          follower: see the attribute.

        Raises:
          UserError: the folder can't be written, or is in use.
        """
        self.root = pathlib.Path(root).expanduser()
        self.follower = follower
        self.barrier: Callable[[], object] = lambda: None
        self._exit = contextlib.ExitStack()
        if follower:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._exit.callback(FolderLock(self.root, shard).release)
        except OSError as error:
            raise UserError(
                f"can't write to the work folder {self.root} ({error.strerror or error}): give another --workdir."
            ) from error

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    # ---- reading ----------------------------------------------------------------------------------------

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of an entry, or None where there is no such entry.

        Raises:
          UserError: the manifest is damaged.
        """
        path = self.root / name / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest.pop("seal") == digest(manifest):
                return manifest
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        raise UserError(f"{path} is damaged. {_way_out(path.parent)}")

    def is_current(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether an entry exists and was computed from these inputs (JSON).

        Raises:
          UserError: its manifest is damaged.
        """
        manifest = self.manifest(name)
        return manifest is not None and not differences(manifest["inputs"], _plain(inputs))

    def open(self, name: str) -> pathlib.Path:
        """The folder of an entry, after a check of all its files.

        Raises:
          UserError: a file is missing or damaged; the message names the file and how to rebuild the entry.
        """
        folder, manifest = self.root / name, self.manifest(name)
        if manifest is None:
            raise UserError(f"{folder / MANIFEST} is missing: give the command that computes {name} again.")
        for file, expected in manifest["files"].items():
            path = folder / file
            if not path.resolve().is_relative_to(folder.resolve()):
                state = "outside of its folder: its manifest was not written by tfadv"
            elif not path.is_file():
                state = "missing"
            elif path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
                state = "damaged (its SHA-256 is not the one in the manifest)"
            else:
                continue
            raise UserError(f"{path} is {state}. {_way_out(folder, manifest.get('rebuild'))}")
        return folder

    def part(self, name: str, inputs: Mapping[str, Any]) -> pathlib.Path | None:
        """The folder of a part of an entry, or None where it has to be computed; a damaged part is removed."""
        try:
            if self.is_current(name, inputs):
                return self.open(name)
        except UserError as error:
            LOG.info("%s It is computed again.", str(error).split(" To rebuild")[0])
            self.remove(name)
        return None

    def names(self) -> list[str]:
        """The names of all entries, sorted; parts and checkpoints, which are entries as well, included."""
        folders = (path.parent.relative_to(self.root) for path in self.root.rglob(MANIFEST))
        return sorted(f.as_posix() for f in folders if not any(p.startswith((".tmp-", ".scratch-")) for p in f.parts))

    # ---- writing ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def creating(
        self, name: str, inputs: Mapping[str, Any], *, rebuild: str = "", need: int = 0
    ) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
        """Creates an entry, or replaces it: yields (folder, manifest) for the block to fill.

        The entry is in place and complete only when the block ends without
        an error.  An error or a kill leaves the entry that was there before
        (or none, in the instant between two renames).  The block may set
        `manifest["content"]` where a hash of the files is not the best name of
        what they hold.

        Args:
          name: the entry; a relative path with "/".
          inputs: JSON, all that the entry is computed from.
          rebuild: what a user does to compute it, for error messages, such as "run tfadv --stage=train";
            "" stands for "give the same command again".
          need: the bytes it will take, as far as that is known.

        Raises:
          UserError: the disk has no room for it.
        """
        started = time.monotonic()
        manifest: dict[str, Any] = {"entry": name, "inputs": _plain(inputs)}
        if rebuild:
            manifest["rebuild"] = rebuild
        if self.follower:
            with tempfile.TemporaryDirectory() as discarded:
                yield pathlib.Path(discarded), manifest
            self.barrier()
            return
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        check_room(target.parent, name, need)
        self._log_changes(name, manifest["inputs"])
        for leftover in target.parent.glob(f".tmp-{target.name}-*"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = target.parent / f".tmp-{target.name}-new"
        temporary.mkdir()
        try:
            yield temporary, manifest
            _finish(temporary, manifest, started)
            _replace(target, temporary)
        except Exception as error:  # TensorFlow raises errors of its own when the disk is full
            if getattr(error, "errno", None) not in DISK_FULL and "No space left" not in str(error):
                raise
            written = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file())
            raise UserError(
                f"the disk is full: {name} needs {megabytes(max(need, written))} or more in {self.root}. "
                "Make room and give the same command again; finished work is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(self._scratch(name), ignore_errors=True)
        self.barrier()

    def _log_changes(self, name: str, inputs: dict[str, Any]) -> None:
        with contextlib.suppress(UserError):  # a damaged entry may be replaced
            old = self.manifest(name)
            changed = differences(old["inputs"], inputs) if old else []
            if changed:
                LOG.info("%s is rebuilt, its inputs changed: %s", name, ", ".join(c.split(":")[0] for c in changed))

    def remove(self, name: str) -> None:
        """Removes an entry, or a folder of them; all workers of a distributed run call it."""
        self.barrier()  # no worker reads it any more
        if not self.follower:
            shutil.rmtree(self.root / name, ignore_errors=True)
            shutil.rmtree(self._scratch(name), ignore_errors=True)
        self.barrier()

    def discard(self, name: str) -> None:
        """Removes a folder that no process reads, if it is there."""
        if not self.follower and (self.root / name).exists():
            shutil.rmtree(self.root / name, ignore_errors=True)

    # ---- state of unfinished work ---------------------------------------------------------------------------

    def scratch(self, name: str, inputs: Mapping[str, Any]) -> pathlib.Path:
        """A folder for the state from which an unfinished entry continues in the next run.

        It keeps its files as long as it is asked for with the same inputs, is
        emptied otherwise, and is removed when `creating(name)` completes or
        the entry is removed.  A follower's is a temporary folder.

        Args:
          name: the entry.
          inputs: JSON, as for `creating`.
        """
        if self.follower:
            return pathlib.Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        folder, inputs = self._scratch(name), _plain(inputs)
        try:
            if json.loads((folder / SCRATCH_INPUTS).read_text(encoding="utf-8")) == inputs:
                return folder
        except (OSError, ValueError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / SCRATCH_INPUTS, inputs)
        return folder

    def _scratch(self, name: str) -> pathlib.Path:
        target = self.root / name
        return target.parent / f".scratch-{target.name}"


def versions() -> dict[str, str | None]:
    """The versions of tfadv, Python and the libraries that results depend on; None for one that is not installed."""
    from tfadv import __version__

    installed: dict[str, str | None] = {"tfadv": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "keras", "tensorflow-datasets", "numpy"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # TensorFlow has several distributions
            installed[name] = None
    return installed


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(dict(value)))


def _way_out(folder: pathlib.Path, rebuild: str | None = None) -> str:
    return f"To rebuild it: rm -r {shlex.quote(str(folder))}, then {rebuild or 'give the same command again'}."


def _finish(folder: pathlib.Path, manifest: dict[str, Any], started: float) -> None:
    """Writes the manifest of the files in a folder, and waits until all of them are on the disk."""
    manifest["files"] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest.setdefault("content", digest({k: v["sha256"] for k, v in manifest["files"].items()}))
    manifest.setdefault("seconds", round(time.monotonic() - started, 1))
    manifest["created"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    manifest["versions"] = versions()
    manifest = _plain(manifest)
    write_json(folder / MANIFEST, manifest | {"seal": digest(manifest)})
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def _replace(target: pathlib.Path, new: pathlib.Path) -> None:
    """Puts a complete folder in the place of another one."""
    old = target.parent / f".tmp-{target.name}-old"
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
