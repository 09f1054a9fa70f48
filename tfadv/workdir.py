"""The work folder: artifacts are written aside and renamed, fingerprinted, and checked when they are opened.

An artifact is a folder with a `manifest.json`, which names what the artifact
was made from (`inputs`), what it is (`content`, a hash that downstream
artifacts name as their input) and the size and SHA-256 of each file.
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shutil
import time

from tfadv.errors import UserError

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def digest(value):
    """str, the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path, value, indent=1):
    """Writes JSON aside and renames it, so that a reader never sees half of it."""
    path = pathlib.Path(path)
    aside = path.with_name(f".tmp-{path.name}")
    with open(aside, "w") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def differences(old, new):
    """list of "field: old → new" for the fields in which two dicts differ."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


class Workdir:
    """One run's folder; a context manager that keeps other processes out of it."""

    def __init__(self, root, config, *, overwrite=False):
        """Opens a folder, or makes it.

        Args:
          root: path of the folder.
          config: `Config`, resolved; the folder belongs to it.
          overwrite: bool, take over a folder that belongs to another Config;
            artifacts whose inputs stay the same are kept.

        Raises:
          UserError: the folder can't be written, is in use, or belongs to another Config.
        """
        self.root = pathlib.Path(root).expanduser()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.root / ".lock", "a")
        except OSError as error:
            raise UserError(f"can't write to the work folder {self.root} ({error.strerror}): give another --workdir.")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the kernel, also after kill -9
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"another tfadv process works in {self.root}: wait for it, or give another --workdir.")
        except OSError as error:  # some mounted drives have no locks
            LOG.warning("%s can't be locked (%s): let no second process work in it.", self.root, error.strerror)
        try:
            self._claim(config, overwrite)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._lock.close()

    def _claim(self, config, overwrite):
        path, fields = self.root / "config.json", config.fields()
        if path.exists():
            try:
                different = differences(json.loads(path.read_text()), fields)
            except ValueError:
                raise UserError(f"{path} is damaged: remove it, or give another --workdir.")
            if different and not overwrite and (self.root / "split").exists():  # else there is nothing to protect
                raise UserError(
                    f"{self.root} belongs to another configuration ({'; '.join(different)}): give another "
                    "--workdir, or --overwrite to remake in this one what depends on these settings."
                )
            if different:  # counts of another configuration must not stand beside those of this one
                shutil.rmtree(self.root / "evaluations", ignore_errors=True)
                (self.root / "results.json").unlink(missing_ok=True)
        write_json(path, fields)

    def manifest(self, name):
        """dict, the manifest of an artifact, or None where there is no whole artifact."""
        try:
            return json.loads((self.root / name / MANIFEST).read_text())
        except (OSError, ValueError):
            return None

    def is_current(self, name, inputs):
        """Whether an artifact is there and was made from these inputs."""
        manifest = self.manifest(name)
        if manifest is None:
            return False
        different = differences(manifest["inputs"], inputs)
        if different:
            LOG.info("%s is made anew: %s", name, "; ".join(d.split(":")[0] for d in different))
        return not different

    @contextlib.contextmanager
    def creating(self, name, inputs):
        """Makes an artifact: yields (folder, manifest) to fill; complete and in place only when the block ends well.

        The block writes files into the folder, and may set `manifest["content"]`
        where the hash of the files is not the best name of what they hold; an
        error or a kill leaves what was there before, or in the instant between
        two renames nothing, but never half of either.
        """
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".tmp-{target.name}-*"):  # of a killed process; the lock says it is gone
            shutil.rmtree(left)
        aside = target.parent / f".tmp-{target.name}-new"
        aside.mkdir()
        started = time.monotonic()
        manifest = {"artifact": name, "inputs": inputs}
        try:
            yield aside, manifest
            manifest["files"] = {
                str(p.relative_to(aside)): {"bytes": p.stat().st_size, "sha256": _sha256(p)}
                for p in sorted(aside.rglob("*"))
                if p.is_file()
            }
            manifest.setdefault("content", digest({k: v["sha256"] for k, v in manifest["files"].items()}))
            manifest["seconds"] = round(time.monotonic() - started, 1)
            manifest["made"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            manifest["versions"] = versions()
            write_json(aside / MANIFEST, manifest)
            if target.exists():
                old = target.parent / f".tmp-{target.name}-old"
                os.replace(target, old)
                os.replace(aside, target)
                shutil.rmtree(old)
            else:
                os.replace(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

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
            raise UserError(f"{folder / MANIFEST} is missing or damaged: run --stage={remake} again.")
        for file, expected in manifest["files"].items():
            path = folder / file
            if not path.is_file():
                state = "missing"
            elif path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
                state = "damaged (its SHA-256 is not the one written down when it was made)"
            else:
                continue
            raise UserError(f"{path} is {state}. To rebuild it: rm -r {folder} and run --stage={remake} again.")
        return folder


def _sha256(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def versions():
    """dict of the versions that made an artifact."""
    from tfadv import __version__

    names = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
    return {"tfadv": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
