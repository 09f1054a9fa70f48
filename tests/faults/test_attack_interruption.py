"""A long attack evaluation that is killed continues where it was; one that is interrupted ends within seconds."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from tests import commands
from tests.faults.harness import ROOT, Run, kill

ATTACK = "--attacks=autoattack(steps=20,targets=2,queries=300)"
# An experiment of one recipe; 0.2 s between two writes instead of 20 s; and a line for each unit that the log serves.
PLUGIN = """
import sys
from tfadv.experiments import EXPERIMENTS
from tfadv.experiments.recipe import Experiment, Recipe
from tfadv.store import resume
EXPERIMENTS.register("single", Experiment("single", (Recipe("plain", "Plain"),), "plain"))
resume.ResumeLog.__init__.__defaults__ = (0.2,)
load = resume.ResumeLog.load
def load_and_report(self):
    saved = load(self)
    if saved:
        print(f"unit {self._unit}: {saved[0]}", file=sys.stderr, flush=True)
    return saved
resume.ResumeLog.load = load_and_report
"""


class SingleRun(Run):
    """One trained model, and the only part of its evaluation under AutoAttack."""

    def __init__(self, workdir, data_dir, plugins):
        super().__init__(workdir, data_dir)
        self.environment = {"PYTHONPATH": os.pathsep.join([str(plugins), str(ROOT)])}

    def flags(self, *more):
        return super().flags("--plugins=single_recipe", "--experiment=single", "--epsilons=0.02,0.1", *more)

    def start(self, *more):
        return super().start("--stage=evaluate", "--shard=0/1", "--eval_size=200", ATTACK, *more, **self.environment)

    def finish(self):
        """Runs to the end; the lines of units that were served from the disk."""
        process = self.start()
        errors = process.communicate()[1]
        assert process.returncode == 0, errors[-2000:]
        return [line for line in errors.splitlines() if line.startswith("unit ")]

    def states(self):
        """The saved units: "000000-done-….npz", and last the one that is partly done."""
        return sorted(path.name for path in self.workdir.glob("parts/attacks/**/.scratch-*/**/*.npz"))

    def wait_for_state(self, process, units):
        """Waits until so many finished units are on the disk, and another one that is partly done."""
        end = time.monotonic() + 120
        while not (len(self.states()) > units and "-step" in self.states()[-1]):
            assert process.poll() is None and time.monotonic() < end, self.states()
            time.sleep(0.01)

    def result(self):
        """(result.json without the time, arrays) of the part."""
        (folder,) = (path.parent for path in self.workdir.glob("parts/attacks/**/manifest.json"))
        record = json.loads((folder / "result.json").read_text())
        del record["cost"]["seconds"]
        with np.load(folder / "correct.npz") as arrays:
            return record, dict(arrays)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """A `SingleRun` whose model is trained and evaluated under FGSM."""
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "single_recipe.py").write_text(PLUGIN)
    run = SingleRun(tmp_path_factory.mktemp("trained") / "run", data_dir, plugins)
    done = commands.run(run.flags("--stage=evaluate"), environment=os.environ | run.environment)
    assert done.returncode == 0, done.stderr[-2000:]
    run.plugins = plugins
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of `trained`."""
    shutil.copytree(trained.workdir, tmp_path / "run")
    return SingleRun(tmp_path / "run", trained.data_dir, trained.plugins)


def test_killed_and_continued_equals_uninterrupted(run, trained, tmp_path):
    process = run.start()
    run.wait_for_state(process, units=2)
    kill(process)
    finished = sum("-done-" in name for name in run.states())
    assert finished >= 2 and not list(run.workdir.glob("parts/attacks/**/manifest.json"))
    served = run.finish()
    assert sum(line.endswith(": done") for line in served) == finished
    assert sum(line.endswith(": partial") for line in served) == 1
    assert not run.states()

    shutil.copytree(trained.workdir, tmp_path / "other")
    other = SingleRun(tmp_path / "other", trained.data_dir, trained.plugins)
    assert not other.finish()
    (record, arrays), (expected_record, expected) = run.result(), other.result()
    assert record == expected_record and record["cost"]["gradients"] > 0
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    remaining = list(record["cost"]["remaining"].values())
    assert expected["clean"].sum() > remaining[0][0] > remaining[-1][-1]  # the attacks had something to do


@pytest.mark.parametrize(
    "number, code, devices",
    [
        (signal.SIGINT, 130, ()),
        (signal.SIGINT, 130, ("--distribute=mirrored", "--virtual_devices=2")),
        pytest.param(signal.SIGTERM, 143, (), marks=pytest.mark.long),
    ],
)
def test_a_signal_during_an_attack_ends_the_process_within_seconds(run, number, code, devices):
    process = run.start(*devices)
    run.wait_for_state(process, units=0)
    process.send_signal(number)
    sent = time.monotonic()
    errors = process.communicate()[1]
    assert time.monotonic() - sent < 4  # 2 s where no other process slows this down
    assert process.returncode == code and "Traceback" not in errors, errors[-2000:]
    assert errors.rstrip().endswith("the same command continues from there.")
