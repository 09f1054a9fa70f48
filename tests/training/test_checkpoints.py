"""A killed training run ends with the weights of an uninterrupted one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from tests import commands
from tfadv.errors import UserError
from tfadv.store.workdir import Workdir
from tfadv.training import checkpoints
from tfadv.training.checkpoints import Checkpoints

STEPS = {"baseline": 10, "augmented": 38}  # per epoch
ROOT = pathlib.Path(__file__).parents[2]


def flags(workdir, data_dir, stage):
    return [
        "--dataset=digits", f"--stage={stage}", "--models=resnet_tiny",
        "--surrogate=resnet_tiny", "--train_size=320", "--epochs=4", "--retrain_epochs=3", "--batch_size=32",
        f"--workdir={workdir}", f"--data_dir={data_dir}",
    ]  # fmt: skip


def weights(workdir, defense):
    return json.loads((workdir / f"models/resnet_tiny/{defense}/manifest.json").read_text())["content"]


def history(workdir, defense):
    return json.loads((workdir / f"models/resnet_tiny/{defense}/history.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert commands.run(flags(workdir, data_dir, "augment")).returncode == 0
    assert not list(workdir.glob("checkpoints/*/*"))  # no longer needed
    return workdir


def stopped_at(workdir, data_dir, stage, defense, epoch, number=signal.SIGKILL, more=()):
    """Starts the run and sends a signal as soon as a checkpoint is there; returns (exit code, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfadv.main", *flags(workdir, data_dir, stage), *more], text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    folder = workdir / f"checkpoints/resnet_tiny/{defense}/step-{epoch * STEPS[defense]:08d}"
    deadline = time.monotonic() + 300
    while not folder.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
        time.sleep(0.005)
    os.kill(process.pid, number)
    errors = process.communicate()[1]
    return process.returncode, errors


def test_checkpoints_of_other_inputs_are_kept_unless_overwriting_was_asked_for(tmp_path):
    with Workdir(tmp_path) as workdir:
        first, other = (Checkpoints(workdir, "checkpoints/a", {"learning_rate": rate}) for rate in (0.1, 0.01))
        for step in (1, 2):
            first.save(step, {"epoch": step}, {"w": np.zeros(1)})
        with pytest.raises(UserError, match=r"checkpoints/a .*\(learning_rate: 0.1 → 0.01\): give the earlier ones"):
            other.check(overwrite=False)
        other.remove()  # when a model with these inputs is finished
        for overwrite in (False, True):
            first.check(overwrite)
            assert first.load()[0] == {"epoch": 2}
        other.check(overwrite=True)
        assert not other.exist() and other.load() is None
        other.save(3, {}, {})
        other.remove()
        assert not other.folder.exists()


@pytest.mark.long
@pytest.mark.parametrize("defense, epoch", [("baseline", 2), ("augmented", 1)])
def test_killed_and_resumed_equals_uninterrupted_exactly(uninterrupted, tmp_path, data_dir, defense, epoch):
    stopped_at(tmp_path, data_dir, "augment", defense, epoch)
    took_an_hour(tmp_path, f"checkpoints/resnet_tiny/{defense}")
    resumed = commands.run(flags(tmp_path, data_dir, "augment"))
    assert resumed.returncode == 0 and "resuming after epoch" in resumed.stderr
    for name in ("baseline", "augmented"):
        assert weights(tmp_path, name) == weights(uninterrupted, name)
        assert history(tmp_path, name) == history(uninterrupted, name)
    manifest = json.loads((tmp_path / f"models/resnet_tiny/{defense}/manifest.json").read_text())
    assert 3600 < manifest["seconds"] < 3600 + 600


def took_an_hour(root, name):
    """Changes the newest checkpoint to that of a training that had taken an hour by then."""
    with Workdir(root) as workdir:
        newest = max(path.name for path in (root / name).glob("step-*"))
        kept = Checkpoints(workdir, name, workdir.manifest(f"{name}/{newest}")["inputs"])
        state, arrays = kept.load()
        kept._before = 3600
        kept.save(int(newest.split("-")[1]), state, arrays)


def test_killed_and_resumed_without_a_damaged_checkpoint_equals_uninterrupted(smoke, tmp_path, data_dir):
    stopped = tmp_path / "stopped"
    stopped_at(stopped, data_dir, "train", "baseline", 1, more=["--epochs=2"])
    newest = max((stopped / "checkpoints/resnet_tiny/baseline").glob("step-*"))
    arrays = newest / "arrays.npz"
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    resumed = commands.run([*flags(stopped, data_dir, "train"), "--epochs=2"])
    assert (
        resumed.returncode == 0
        and "damaged" in resumed.stderr
        and "Resuming from the checkpoint before" in resumed.stderr
    )
    assert weights(stopped, "baseline") == weights(smoke.workdir, "baseline")
    assert history(stopped, "baseline") == history(smoke.workdir, "baseline")


def test_the_seconds_of_all_parts_count(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with Workdir(tmp_path) as workdir:
        for start in (0, 1000):  # the second part begins with the checkpoint of the first
            now[0] = start
            part = Checkpoints(workdir, "checkpoints/a", {})
            part.load()
            now[0] += 30
            part.save(start + 1, {"step": 1}, {})
            now[0] += 20
        assert part.seconds == 30 + 50
        state, _ = Checkpoints(workdir, "checkpoints/a", {}).load()
        assert state == {"step": 1}
