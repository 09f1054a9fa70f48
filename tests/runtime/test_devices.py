"""Several devices and several hosts compute what one device does."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.faults.harness import ROOT, Run, one_line, wait_for
from tfadv import surrogate
from tfadv.config import cluster
from tfadv.runtime.devices import Devices
from tfadv.errors import UserError

TWO = ("--distribute=mirrored", "--virtual_devices=2")
FOUR = ("--distribute=mirrored", "--virtual_devices=4")


@pytest.fixture(scope="module")
def one(tmp_path_factory, data_dir):
    """A `Run` of one device: baseline after one epoch, samples and evaluation."""
    run = Run(tmp_path_factory.mktemp("one") / "run", data_dir)
    done = run("--epochs=1", "--sync_batchnorm", "--stage=attack")
    assert done.returncode == 0, done.stderr
    return run


def history(run):
    return json.loads((run.workdir / "models/resnet_tiny/baseline/history.json").read_text())


def hits(run):
    return np.load(run.workdir / "evaluations/resnet_tiny/baseline/hits.npy")


def same_epoch(run, one):
    """One epoch with the same batches: equal to rounding, which one step later every weight has seen."""
    assert history(run)["steps"] == history(one)["steps"]
    for key, (value,) in history(one)["history"].items():
        assert history(run)["history"][key] == [pytest.approx(value, rel=2e-3)], key


@pytest.mark.parametrize("devices", [TWO, pytest.param(FOUR, marks=pytest.mark.long)], ids=["two", "four"])
def test_devices_of_one_host(devices, one, tmp_path):
    run = Run(tmp_path / "run", one.data_dir)
    done = run("--epochs=1", "--sync_batchnorm", "--stage=train", *devices)
    assert done.returncode == 0 and "MirroredStrategy" in done.stderr, done.stderr
    same_epoch(run, one)
    # The attacks of one and the same model: those weights, these devices.
    shutil.copytree(one.workdir, tmp_path / "other")
    other = Run(tmp_path / "other", one.data_dir)
    for name in ("surrogate", "evaluations"):
        shutil.rmtree(other.workdir / name)
    done = other("--epochs=1", "--sync_batchnorm", "--stage=attack", *devices)
    assert done.returncode == 0, done.stderr
    assert (hits(other) != hits(one)).sum() <= 2
    ours, theirs = (
        surrogate.read(r.workdir / "surrogate/digits_surrogate/1.0.0", "test", (0.0,))[0] for r in (other, one)
    )
    assert (ours.perturbations != theirs.perturbations).mean() < 1e-3
    np.testing.assert_array_equal(ours.images, theirs.images)


STATISTICS = """
import tfadv, numpy as np
from tfadv import models
from tfadv.runtime.devices import Devices
from tfadv.training import Trainer
devices = Devices("mirrored", 2)
rng = np.random.default_rng(0)
with devices.strategy.scope():
    model = models.build("resnet_tiny", (16, 16, 1), 3)
start = model.get_weights()
trainer = Trainer(model, weight_decay=0.0, devices=devices)
for _ in range(3):
    x, y = rng.uniform(size=(16, 16, 16, 1)).astype("float32"), rng.integers(0, 3, 16)
    trainer.train_step(devices.split(x), devices.split(y))
for variable, before in zip(model.weights, start):
    first, second = (v.numpy() for v in variable.value.values)
    assert (first == second).all(), variable.path
    assert (first != before).any() or "conv1" in variable.path or "bn1" in variable.path, variable.path
print("alike")
"""


def test_all_devices_keep_the_same_variables_without_synchronized_norms():
    done = subprocess.run([sys.executable, "-c", STATISTICS], capture_output=True, text=True, cwd=ROOT)
    assert "alike" in done.stdout, done.stderr[-2000:]


def workers(run, *more):
    """Two processes of one distributed run, the chief first."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    hosts = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [
        run.start(
            "--sync_batchnorm",
            *more,
            TF_CONFIG=json.dumps({"cluster": hosts, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]


def test_two_hosts_and_one_of_them_killed(one, tmp_path, long):
    run = Run(tmp_path / "run", one.data_dir)
    chief, other = workers(run, "--epochs=1", "--stage=attack")
    errors = [process.communicate()[1] for process in (chief, other)]
    assert chief.returncode == other.returncode == 0, errors
    same_epoch(run, one)
    # These weights differ by rounding, so a few images on the edge may fall to the other side.
    assert np.abs(hits(run).mean(axis=1) - hits(one).mean(axis=1)).max() < 0.03
    assert not list(run.workdir.rglob(".tmp-*"))

    run = Run(tmp_path / "killed", one.data_dir)
    settings = ("--epochs=40", "--patience=40", "--stage=train")
    chief, other = workers(run, *settings)
    wait_for(chief, "epoch 2/")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    errors = chief.communicate()[1]
    ended = subprocess.CompletedProcess(chief.args, chief.returncode, stderr=errors)
    assert "another worker of this run is gone" in one_line(ended)
    if not long:
        return
    chief, other = workers(run, *settings)
    lines = wait_for(chief, "going on after epoch")
    assert lines and wait_for(chief, "epoch 4/")
    for process in (chief, other):  # asked to stop, both do at the same step
        process.send_signal(signal.SIGTERM)
    assert {process.communicate() and process.returncode for process in (chief, other)} == {143}


def test_a_batch_that_can_not_be_shared_is_refused():
    two = types.SimpleNamespace(replicas=2)
    Devices.check_batch(two, 32)
    with pytest.raises(UserError, match="--batch_size=31 can't be shared by 2 devices"):
        Devices.check_batch(two, 31)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": 3, "task": 4}'])
def test_a_broken_cluster_description_is_named(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG can't be read.*worker"):
        cluster()


def test_the_number_of_a_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster() == (1, 0)
    config = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert cluster() == (3, 2)
    monkeypatch.setenv("TF_CONFIG", json.dumps(config | {"task": {"type": "chief", "index": 0}}))
    assert cluster() == (3, 0)


def test_several_hosts_need_their_names(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="TF_CONFIG"):
        Devices("multiworker")


@pytest.mark.long
def test_shares_joined_are_the_whole(one, tmp_path):
    shutil.copytree(one.workdir, tmp_path / "run")
    run, settings = Run(tmp_path / "run", one.data_dir), ("--epochs=1", "--sync_batchnorm")
    for name in ("surrogate", "evaluations"):
        shutil.rmtree(run.workdir / name)
    for stage in ("generate", "attack"):
        # Side by side, as on a cluster.
        shares = [run.start(*settings, f"--stage={stage}", f"--shard={i}/2") for i in range(2)]
        for share in shares:
            assert share.communicate() and share.returncode == 0
        assert run(*settings, f"--stage={stage}").returncode == 0
    assert run.contents() == one.contents()
    assert (run.workdir / "results.json").read_bytes() == (one.workdir / "results.json").read_bytes()
