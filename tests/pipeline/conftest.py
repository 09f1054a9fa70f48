"""The smoke run, shared by the tests of the stages."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import commands
from tests.commands import ROOT
from tfadv.command_line import CommandLine
from tfadv.pipeline.run import Run
from tfadv.store.workdir import Workdir

CHEAP = "--plugins=tests.pipeline.cheap_checks"


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


@pytest.fixture(scope="session")
def smoke(made_once, data_dir):
    """A `Smoke` that has run once; its `stdout` is what it printed.  Tests that change its folder work on a copy."""

    def make(folder):
        stdout = Smoke(folder / "run", data_dir).succeed()
        (folder / "stdout.txt").write_text(stdout)

    made, copy = made_once("smoke", make)
    run = Smoke(copy / "run", data_dir)
    run.stdout = (copy / "stdout.txt").read_text().replace(str(made), str(copy))
    return run


@pytest.fixture
def started():
    """A function from flags to a `Run` in this process; it opens the work folder that they name."""
    opened = []

    def close():
        while opened:
            opened.pop().__exit__(None, None, None)

    def start(*flags):
        close()
        config = CommandLine(flags).config()
        opened.append(Workdir(config.workdir, shard=config.shard_of()))
        return Run(config, opened[-1].__enter__())

    yield start
    close()
