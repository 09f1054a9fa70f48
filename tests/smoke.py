"""The smoke run: every stage on the embedded digits with a tiny model."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests import commands
from tests.commands import ROOT


class Smoke:
    """A work folder in which `tfadv --flagfile=smoke` is run, with further flags; the checkout's tfadv by default.

    Where `forked`, the processes are those of `tests.commands`.
    """

    def __init__(self, workdir, data_dir, package=ROOT):
        self.workdir, self.data_dir, self.package = pathlib.Path(workdir), data_dir, package
        self.forked = package == ROOT
        self.variables = {}

    def __call__(self, *flags, cwd=None):
        """The finished process."""
        flags = ["--flagfile=smoke", f"--workdir={self.workdir}", f"--data_dir={self.data_dir}", *flags]
        if self.forked:
            return commands.run(flags, cwd=cwd or ROOT, environment=self.environment())
        return subprocess.run(
            [sys.executable, "-m", "tfadv.main", *flags],
            capture_output=True,
            text=True,
            cwd=cwd or self.package,
            stdin=subprocess.DEVNULL,
            env=self.environment(),
        )

    def environment(self):
        """With the package on the path, whatever folder the process runs in."""
        return os.environ | {"PYTHONPATH": str(self.package), "PYTHONDONTWRITEBYTECODE": "1"} | self.variables

    def succeed(self, *flags, cwd=None):
        """The standard output of a run that must end well."""
        done = self(*flags, cwd=cwd)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def records(self):
        """The entries of results.json."""
        return json.loads((self.workdir / "results.json").read_text())

    def manifest(self, name):
        """The manifest of an entry."""
        return json.loads((self.workdir / name / "manifest.json").read_text())

    def dates(self):
        """dict of entry → when it was written, to see what is built again."""
        paths = self.workdir.rglob("manifest.json")
        return {p.parent.relative_to(self.workdir).as_posix(): p.stat().st_mtime_ns for p in paths}

    def rebuilt(self, before):
        """The entries that were built since `before`, which is what `dates` returned."""
        return {name for name, date in self.dates().items() if before.get(name) != date}

    def copy(self, folder, package=ROOT):
        """The same in a copy of the work folder."""
        shutil.copytree(self.workdir, folder)
        return Smoke(folder, self.data_dir, package)
