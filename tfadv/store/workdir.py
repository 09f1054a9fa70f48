"""The work folder: artifacts are written aside and renamed, fingerprinted, and checked when they are opened.

An artifact is a folder with a `manifest.json`, which names what the artifact
was made from (`inputs`), what it is (`content`, a hash that downstream
artifacts name as their input) and the size and SHA-256 of each file; `seal` is
the SHA-256 of the manifest itself.
"""

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shutil
import tempfile
import time

from tfadv.errors import UserError
from tfadv.store.files import check_room, differences, digest, file_digest, megabytes, sync, write_json

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"


class Workdir:
    """One run's folder; a context manager that keeps other processes out of it."""

    def __init__(self, root, config, *, overwrite=False, shard=None, follower=False):
        """Opens a folder, or makes it.

        Args:
          root: path of the folder.
          config: `Config`, resolved; the folder belongs to it.
          overwrite: bool, take over a folder that belongs to another Config;
            artifacts whose inputs stay the same are kept.
          shard: (i, n) where this process makes a share of an artifact's parts, beside others; else None.
          follower: bool, a worker of a distributed run that is not its chief: it reads, and its
            artifacts go nowhere.

        Raises:
          UserError: the folder can't be written, is in use, or belongs to another Config.
        """
        self.root = pathlib.Path(root).expanduser()
        self.follower = follower
        self.barrier = lambda: None  # waits for the other hosts of a distributed run, where there are any
        self._locks = []
        if follower:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock(".lock", fcntl.LOCK_SH if shard else fcntl.LOCK_EX, "another tfadv process works in")
            if shard:
                self._lock(f".lock-{shard[0]}-of-{shard[1]}", fcntl.LOCK_EX, "the same shard is being made in")
            self._claim(config, overwrite, shard)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise UserError(
                    f"can't write to the work folder {self.root} ({error.strerror}): give another --workdir."
                )
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for lock in self._locks:
            lock.close()

    def _lock(self, name, kind, busy):
        file = open(self.root / name, "a")
        self._locks.append(file)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)  # released by the kernel, also after kill -9
        except BlockingIOError:
            raise UserError(f"{busy} {self.root}: wait for it, or give another --workdir.")
        except OSError as error:  # some mounted drives have no locks
            LOG.warning("%s can't be locked (%s): let no second process work in it.", self.root, error.strerror)

    def _claim(self, config, overwrite, shard):
        path, fields = self.root / "config.json", config.fields()
        if path.exists():
            try:
                different = differences(json.loads(path.read_text()), fields)
            except (ValueError, AttributeError):
                raise UserError(f"{path} is damaged: remove it, or give another --workdir.")
            if different and not overwrite and (self.root / "split").exists():  # else there is nothing to protect
                raise UserError(
                    f"{self.root} belongs to another configuration ({'; '.join(different)}): give another "
                    "--workdir, or --overwrite to remake in this one what depends on these settings."
                )
            if different:  # counts of another configuration must not stand beside those of this one
                for kind in ("evaluations", "attacks", "transfers", "verdicts"):
                    shutil.rmtree(self.root / kind, ignore_errors=True)
                (self.root / "results.json").unlink(missing_ok=True)
        if not shard:
            write_json(path, fields)

    def manifest(self, name):
        """dict, the manifest of an artifact, or None where there is none.

        Raises:
          UserError: it is damaged.
        """
        path = self.root / name / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text())
            if manifest.pop("seal") == digest(manifest):
                return manifest
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        raise UserError(f"{path} is damaged. To rebuild it: rm -r {path.parent} and give the same command again.")

    def is_current(self, name, inputs):
        """Whether an artifact is there and was made from these inputs.

        Raises:
          UserError: its manifest is damaged.
        """
        manifest = self.manifest(name)
        if manifest is None:
            return False
        different = differences(manifest["inputs"], inputs)
        if different:
            LOG.info("%s is made anew: %s", name, "; ".join(d.split(":")[0] for d in different))
        return not different

    @contextlib.contextmanager
    def creating(self, name, inputs, need=0):
        """Makes an artifact: yields (folder, manifest) to fill; complete and in place only when the block ends well.

        The block writes files into the folder, and may set `manifest["content"]`
        where the hash of the files is not the best name of what they hold; an
        error or a kill leaves what was there before, or in the instant between
        two renames nothing, but never half of either.

        Args:
          name: str, the artifact; a path below the root.
          inputs: dict, JSON.
          need: int, the bytes it will take, as far as that is known.

        Raises:
          UserError: the disk has no room for it.
        """
        if self.follower:
            with tempfile.TemporaryDirectory() as aside:
                yield pathlib.Path(aside), {"artifact": name, "inputs": inputs}
            self.barrier()
            return
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        check_room(target.parent, name, need)
        for left in target.parent.glob(f".tmp-{target.name}-*"):  # of a killed process; the lock says it is gone
            shutil.rmtree(left)
        aside = target.parent / f".tmp-{target.name}-new"
        aside.mkdir()
        started = time.monotonic()
        manifest = {"artifact": name, "inputs": inputs}
        try:
            yield aside, manifest
            _finish(aside, manifest, started)
            if target.exists():
                old = target.parent / f".tmp-{target.name}-old"
                os.replace(target, old)
                os.replace(aside, target)
                shutil.rmtree(old)
            else:
                os.replace(aside, target)
            sync(target.parent)
        except Exception as error:  # TensorFlow has errors of its own for it
            if getattr(error, "errno", None) != errno.ENOSPC and "No space left" not in str(error):
                raise
            written = sum(p.stat().st_size for p in aside.rglob("*") if p.is_file())
            raise UserError(
                f"the disk is full: {name} needs {megabytes(max(need, written))} or more in {self.root}. "
                "Make room and give the same command again; nothing made before is lost."
            )
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.barrier()

    def open(self, name, remake):
        """The folder of an artifact, after a check of all its files.

        Args:
          name: str, the artifact.
          remake: str, the stage that makes it, for the error message.

        Raises:
          UserError: a file is missing or damaged; names it and the way to make it anew.
        """
        folder, manifest = self.root / name, self.manifest(name)
        if manifest is None:
            raise UserError(f"{folder / MANIFEST} is missing: run --stage={remake} again.")
        for file, expected in manifest["files"].items():
            path = folder / file
            if not path.resolve().is_relative_to(folder.resolve()):
                state = "outside of its artifact: its manifest was not written by tfadv"
            elif not path.is_file():
                state = "missing"
            elif path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
                state = "damaged (its SHA-256 is not the one written down when it was made)"
            else:
                continue
            raise UserError(f"{path} is {state}. To rebuild it: rm -r {folder} and run --stage={remake} again.")
        return folder

    def part(self, name, inputs):
        """The folder of a whole part of an artifact, or None where it is to be made; one that is damaged is removed."""
        try:
            if self.is_current(name, inputs):
                return self.open(name, "")
        except UserError as error:
            LOG.info("%s It is made anew.", str(error).split(" To rebuild")[0])
            self.remove(name)
        return None

    def remove(self, name):
        """Removes an artifact, or a folder of them; all hosts of a distributed run call it."""
        self.barrier()  # nobody reads it any more
        if not self.follower:
            shutil.rmtree(self.root / name, ignore_errors=True)
        self.barrier()

    def names(self):
        """list of the names of all artifacts, in order."""
        return sorted(
            str(path.parent.relative_to(self.root))
            for path in self.root.rglob(MANIFEST)
            if not any(part.startswith(".tmp-") for part in path.relative_to(self.root).parts)
        )


def _finish(aside, manifest, started):
    """Writes the manifest of the files in a folder and brings all of them to the disk."""
    manifest["files"] = {
        str(p.relative_to(aside)): {"bytes": p.stat().st_size, "sha256": file_digest(p)}
        for p in sorted(aside.rglob("*"))
        if p.is_file()
    }
    manifest.setdefault("content", digest({k: v["sha256"] for k, v in manifest["files"].items()}))
    manifest.setdefault("seconds", round(time.monotonic() - started, 1))
    manifest["made"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    manifest["versions"] = versions()
    manifest = json.loads(json.dumps(manifest))
    write_json(aside / MANIFEST, manifest | {"seal": digest(manifest)})
    for path in sorted(aside.rglob("*"), reverse=True):
        sync(path)
    sync(aside)


def versions():
    """dict of the versions that made an artifact."""
    from tfadv import __version__

    names = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
    return {"tfadv": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
