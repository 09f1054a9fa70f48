"""A long attack evaluation that is interrupted or killed ends within seconds, and continues where it was."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from tests.faults.harness import Run

ATTACK = "square(steps=400)"  # with --long, all that AutoAttack consists of
AUTOATTACK = "autoattack(steps=20,targets=2,queries=300)"
PART = ("--stage=evaluate", "--shard=0/1", "--eval_size=200", "--plugins=tests.faults.often")
KILLED = -signal.SIGKILL


class SingleRun(Run):
    """One trained model, and the only part of its evaluation under an attack."""

    attack = ATTACK

    def flags(self, *more):
        return super().flags("--defenses=baseline", "--epsilons=0.02,0.1", *more)

    @property
    def part(self):
        return (*PART, f"--attacks={self.attack}")

    def finish(self):
        """Runs to the end; the lines of units that were served from the disk."""
        done = self(*self.part)
        assert done.returncode == 0, done.stderr[-2000:]
        return [line for line in done.stderr.splitlines() if line.startswith("unit ")]

    def states(self):
        """The saved units: "000000-done-….npz", and last the one that is partly done."""
        return sorted(path.name for path in self.workdir.glob("parts/attacks/**/.scratch-*/**/*.npz"))

    def wait_for_state(self, process, units):
        """Waits until so many finished units are on the disk, and another one that is partly done."""
        end = time.monotonic() + 120
        states = []
        while not (sum("-done-" in name for name in states) >= units and "-step" in states[-1]):
            assert process.poll() is None and time.monotonic() < end, states
            states = self.states()
            time.sleep(0.01)

    def result(self):
        """(result.json without the time, arrays) of the part."""
        (folder,) = (path.parent for path in self.workdir.glob("parts/attacks/**/manifest.json"))
        record = json.loads((folder / "result.json").read_text())
        del record["cost"]["seconds"]
        with np.load(folder / "correct.npz") as arrays:
            return record, dict(arrays)


@pytest.fixture(scope="module")
def trained(smoke, tmp_path_factory, long):
    """A `SingleRun` whose model is trained and evaluated under FGSM."""
    run = SingleRun(tmp_path_factory.mktemp("trained") / "run", smoke.data_dir)
    for name in ("split", "models/resnet_tiny/baseline"):
        shutil.copytree(smoke.workdir / name, run.workdir / name)
    run.attack = AUTOATTACK if long else ATTACK
    done = run("--stage=evaluate")
    assert done.returncode == 0, done.stderr[-2000:]
    return run


def copied(trained, folder):
    shutil.copytree(trained.workdir, folder / "run")
    run = SingleRun(folder / "run", trained.data_dir)
    run.attack = trained.attack
    return run


@pytest.fixture(scope="module")
def uninterrupted(trained, tmp_path_factory):
    """(result.json without the time, arrays) of the part."""
    run = copied(trained, tmp_path_factory.mktemp("uninterrupted"))
    assert not run.finish()
    record, arrays = run.result()
    robust = arrays["clean"] & arrays["adversarial"]
    assert arrays["clean"].sum() > robust[0].sum() > robust[1].sum()  # the attack had something to do
    return record, arrays


@pytest.mark.parametrize(
    "number, code, devices",
    [
        pytest.param(signal.SIGINT, 130, (), marks=pytest.mark.long),  # tests/attacks/test_loop.py resumes as well
        pytest.param(signal.SIGINT, 130, ("--distribute=cpu:2",), marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, (), marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, KILLED, (), marks=pytest.mark.long),
    ],
)
def test_it_ends_within_seconds_and_continued_equals_uninterrupted(
    trained, uninterrupted, tmp_path, number, code, devices
):
    run = copied(trained, tmp_path)
    process = run.start(*run.part, *devices)
    run.wait_for_state(process, units=2)
    process.send_signal(number)
    sent = time.monotonic()
    errors = process.communicate()[1]
    assert time.monotonic() - sent < 4  # 2 s where no other process slows this down
    assert process.returncode == code and "Traceback" not in errors, errors[-2000:]
    assert code == KILLED or errors.rstrip().endswith("the same command continues from there.")
    if devices:  # each has units of its own
        return

    finished = sum("-done-" in name for name in run.states())
    partial = int("-step" in run.states()[-1])
    assert finished >= 2 and not list(run.workdir.glob("parts/attacks/**/manifest.json"))
    served = run.finish()
    assert sum(line.endswith(": done") for line in served) == finished
    assert sum(line.endswith(": partial") for line in served) == partial
    assert not run.states()
    (record, arrays), (expected_record, expected) = run.result(), uninterrupted
    assert record == expected_record and record["cost"]["gradients"] + record["cost"]["forwards"] > 0
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
