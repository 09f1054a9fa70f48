"""Files that survive: written aside, synced to the disk and renamed; checksums; room on the disk."""

import errno
import hashlib
import json
import os
import pathlib
import shutil

from tfadv.errors import UserError


def digest(value):
    """str, the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path):
    """str, the SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


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


def sync(path):
    """Waits until a file or folder is on the disk: a rename may survive a power cut that its file does not."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some mounted drives can't
            raise
    finally:
        os.close(number)


def link(source, target):
    """A second name for a file; a copy of it where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_room(folder, name, need):
    """Raises UserError where the disk has no room for `need` more bytes of artifact `name`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"the disk is full: {name} needs {megabytes(need)}, {folder} has {megabytes(free)} left. "
            "Make room and give the same command again, or give another --workdir; nothing made before is lost."
        )


def megabytes(size):
    """str, such as "12.3 MB"."""
    return f"{size / 1e6:.1f} MB"


def differences(old, new):
    """list of "field: old → new" for the fields in which two dicts differ."""
    keys = sorted(old.keys() | new.keys())
    return [f"{k}: {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]
