"""Several devices and several hosts compute what one device does."""

import json
import shutil
import signal
import subprocess
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.faults.harness import Run, one_line, wait_for
from tfadv.datasets import stored
from tfadv.errors import UserError
from tfadv.runtime.devices import Devices
from tfadv.runtime.peers import peers_may_die

ONE_EPOCH = ("--plugins=tests.faults.synchronized", "--epochs=1")


@pytest.fixture(scope="module")
def one(tmp_path_factory, data_dir):
    """A `Run` of one device: baseline after one epoch, samples and evaluation."""
    run = Run(tmp_path_factory.mktemp("one") / "run", data_dir)
    done = run(*ONE_EPOCH, "--stage=attack")
    assert done.returncode == 0, done.stderr
    return run


def history(run):
    return json.loads((run.workdir / "models/resnet_tiny/baseline/history.json").read_text())


def correct(run):
    """bool (1 + E + E, N): images that are correct clean, under FGSM, and perturbed by the surrogate."""
    folder = run.workdir / "evaluations/resnet_tiny/baseline"
    with np.load(folder / "whitebox_correct.npz") as whitebox, np.load(folder / "transfer_correct.npz") as transfer:
        return np.concatenate([whitebox["clean"][None], whitebox["adversarial"], transfer["adversarial"]])


def same_epoch(run, one):
    """One epoch with the same batches: equal to rounding, which one step later every weight has seen."""
    assert history(run)["steps"] == history(one)["steps"]
    for key, (value,) in history(one)["history"].items():
        assert history(run)["history"][key] == [pytest.approx(value, rel=2e-3)], key


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.long)])
def test_devices_of_one_host(devices, one, tmp_path):
    run = Run(tmp_path / "run", one.data_dir)
    done = run(*ONE_EPOCH, "--stage=train", f"--distribute=cpu:{devices}")
    assert done.returncode == 0 and "MirroredStrategy" in done.stderr, done.stderr
    same_epoch(run, one)
    # The attacks of one and the same model: those weights, these devices.
    shutil.copytree(one.workdir, tmp_path / "other")
    other = Run(tmp_path / "other", one.data_dir)
    for name in ("surrogate", "evaluations"):
        shutil.rmtree(other.workdir / name)
    done = other(*ONE_EPOCH, "--stage=attack", f"--distribute=cpu:{devices}")
    assert done.returncode == 0, done.stderr
    assert (correct(other) != correct(one)).sum() <= 2
    ours, theirs = (
        stored.read(r.workdir / "surrogate/digits_surrogate/1.0.0", "test", (0.0,))[0] for r in (other, one)
    )
    assert (np.asarray(ours.perturbations) != np.asarray(theirs.perturbations)).mean() < 1e-3
    np.testing.assert_array_equal(ours.images, theirs.images)


STATISTICS = """
import tfadv, numpy as np
from tfadv import models
from tfadv.defenses.base import Defense
from tfadv.runtime.devices import Devices
from tfadv.training import Trainer
devices = Devices("cpu:2")
rng = np.random.default_rng(0)
with devices.strategy.scope():
    model = models.build("resnet_tiny", (16, 16, 1), 3)
start = model.get_weights()
trainer = Trainer(model, weight_decay=0.0, defense=Defense(), devices=devices)
for _ in range(3):
    x, y = rng.uniform(size=(16, 16, 16, 1)).astype("float32"), rng.integers(0, 3, 16)
    trainer.train_step(devices.distribute(x), devices.distribute(y))
for variable, before in zip(model.weights, start):
    first, second = (v.numpy() for v in variable.value.values)
    assert (first == second).all(), variable.path
    assert (first != before).any() or "conv1" in variable.path or "bn1" in variable.path, variable.path
print("alike")
"""


DEFENSES = """
import tfadv, keras, numpy as np
from tfadv import models
from tfadv.datasets.batches import Samples
from tfadv.defenses.mart import MART
from tfadv.defenses.pgd import PGD
from tfadv.defenses.trades import TRADES
from tfadv.runtime.devices import Devices
from tfadv.training import Trainer, TrainingSettings
devices = Devices("cpu:2")
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 64)  # the brighter, the higher: something to learn, else the weights stay
images = 0.3 * rng.uniform(size=(64, 16, 16, 1)) + labels[:, None, None, None] / 3
samples = Samples(images.astype("float32"), labels)
settings = TrainingSettings(epochs=4, batch_size=16, learning_rate=0.1, patience=9, eps=0.1, average=0.9)
for defense, batch_parts in (DEFENSE,):
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = models.build("resnet_tiny", (16, 16, 1), 3)
    before = model.get_weights()
    trainer = Trainer(model, weight_decay=0.0, defense=defense, devices=devices, batch_parts=batch_parts)
    trainer.fit(samples, samples, settings)
    for variable in model.weights:
        first, second = (v.numpy() for v in variable.value.values)
        assert np.isfinite(first).all() and (first == second).all(), variable.path
    assert any((a != b).any() for a, b in zip(before, model.get_weights()))
print("alike")
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(STATISTICS, id="plain"),
        pytest.param(DEFENSES.replace("DEFENSE,", "(PGD(steps=1, awp=0.1), 2),"), id="pgd", marks=pytest.mark.long),
        pytest.param(DEFENSES.replace("DEFENSE,", "(TRADES(steps=1), 1),"), id="trades", marks=pytest.mark.long),
        pytest.param(DEFENSES.replace("DEFENSE,", "(MART(steps=1), 1),"), id="mart", marks=pytest.mark.long),
    ],
)
def test_all_devices_keep_the_same_variables_without_synchronized_norms(script):
    done = commands.python(script)
    assert "alike" in done.stdout, done.stderr[-2000:]


@pytest.mark.long
def test_two_hosts_and_one_of_them_killed(one, tmp_path):
    run = Run(tmp_path / "run", one.data_dir)
    chief, other = run.start_hosts(*ONE_EPOCH, "--stage=attack")
    errors = [process.communicate()[1] for process in (chief, other)]
    assert chief.returncode == other.returncode == 0, errors
    same_epoch(run, one)
    # These weights differ by rounding, so a few images on the edge may fall to the other side.
    assert np.abs(correct(run).mean(axis=1) - correct(one).mean(axis=1)).max() < 0.03
    assert not list(run.workdir.rglob(".tmp-*"))

    run = Run(tmp_path / "killed", one.data_dir)
    settings = ("--plugins=tests.faults.often", "--epochs=40", "--patience=40", "--stage=train")
    chief, other = run.start_hosts(*settings)
    wait_for(chief, "epoch  2/")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    errors = chief.communicate()[1]
    ended = subprocess.CompletedProcess(chief.args, chief.returncode, stderr=errors)
    assert "another worker of this run is gone" in one_line(ended)
    chief, other = run.start_hosts(*settings)
    lines = wait_for(chief, "resuming after epoch")
    assert lines and wait_for(chief, "epoch  4/")
    for process in (chief, other):  # asked to stop, both do at the same step
        process.send_signal(signal.SIGTERM)
    assert {process.communicate() and process.returncode for process in (chief, other)} == {143}


TWO_DEVICES = """
import gc, weakref
import tfadv, keras, numpy as np, tensorflow as tf
from tfadv.runtime import compilation
from tfadv.runtime.devices import Devices
devices = Devices("cpu:2")
assert devices.replicas == 2 and devices.workers == 1 and str(devices) == "MirroredStrategy, 2 devices"
assert devices.sum_over_workers(3) == 3.0
devices.workers, devices.replicas = 2, 2  # as if each of them were a host of its own
assert devices.sum_over_workers(2**23 - 1) == 2**24 - 2
devices.workers = 1
x = np.arange(8, dtype="float32")[:, None]

total = devices.reduce(lambda rows: tf.reduce_sum(rows) + rows.shape[0])
assert float(total(devices.distribute(x))) == 28 + 8  # each device saw four rows

with devices.strategy.scope():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
model.set_weights([np.array([[2.0]])])
def double(model, rows, *, dtype, transposed=False):
    result = tf.cast(model(rows) > 6, dtype) if dtype in (tf.bool, tf.int8) else tf.cast(model(rows), dtype)
    return tf.transpose(result) if transposed else result
for dtype in (tf.float32, tf.bool, tf.int8):
    for axis in (0, 1):
        gathered = devices.gather(double, model, axis=axis, dtype=dtype, transposed=axis == 1)(x)
        expected = 2 * x if dtype == tf.float32 else (2 * x > 6).astype(dtype.as_numpy_dtype)
        assert gathered.dtype == dtype
        np.testing.assert_array_equal(gathered, expected.T if axis else expected)  # in order

compiled = lambda: len(devices._gathered[model])
before = compiled()
devices.gather(double, model, dtype=tf.float32, transposed=False)(x)
assert compiled() == before
compilation.configure(accelerate="off")  # another choice is another function
devices.gather(double, model, dtype=tf.float32, transposed=False)(x)
assert compiled() == before + 1
alive = weakref.ref(model)
del model
gc.collect()
assert alive() is None and not len(devices._gathered)  # a compiled function does not keep its model

with devices.strategy.scope():
    moved = keras.Variable([0.0, 0.0])
@tf.function
def step(rows):
    def update(rows):
        moved.assign([tf.reduce_sum(rows), 1.0])
        devices.average([moved])
        return tf.reduce_sum(rows)
    return devices.strategy.run(update, (rows,))
step(devices.distribute(x))
for copy in moved.value.values:
    np.testing.assert_array_equal(copy, [14.0, 1.0])  # the mean of 6 and 22
"""


def test_two_devices_compute_what_one_does():
    done = commands.python(TWO_DEVICES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "retracing" not in done.stderr


def test_one_device_leaves_batches_and_functions_as_they_are():
    devices, batch = Devices(), np.arange(6.0)
    assert devices.distribute(batch) is batch
    assert devices.gather(lambda model, x, *, factor: model * x * factor, 2, factor=3)(7) == 42
    assert float(devices.reduce(tf.reduce_sum)(batch)) == 15
    assert devices.sum_over_workers(2) == 2.0


def test_a_batch_that_can_not_be_shared_is_refused():
    one, two = (types.SimpleNamespace(replicas=replicas) for replicas in (1, 2))
    Devices.check_batch(two, 32)
    with pytest.raises(UserError, match="31 images can't be shared equally by 2 devices: give .* a multiple of 2"):
        Devices.check_batch(two, 31)
    with pytest.raises(UserError, match="31 images can't be shared equally in 3 parts: give .* a multiple of 3"):
        Devices.check_batch(one, 31, 3)
    with pytest.raises(UserError, match="equally by 2 devices in 3 parts: give .* a multiple of 6"):
        Devices.check_batch(two, 9, 3)


@pytest.mark.parametrize(
    "error, gone",
    [
        (tf.errors.UnavailableError, True),
        (tf.errors.DeadlineExceededError, True),
        (tf.errors.ResourceExhaustedError, False),  # the user has to see that memory is short
    ],
)
def test_which_errors_mean_that_a_host_is_gone(error, gone, monkeypatch):
    hosts = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(hosts))
    message = "Collective ops on /job:worker/replica:0/task:0/device:GPU:0"
    with pytest.raises(UserError if gone else error, match="is gone" if gone else "Collective"):
        with peers_may_die():
            raise error(None, None, message)
    other = error(None, None, "OOM on /job:worker/replica:0/task:0/device:GPU:0")
    with pytest.raises(error), peers_may_die():
        raise other


def test_several_hosts_need_their_names(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="TF_CONFIG"):
        Devices("multiworker")


@pytest.mark.long
def test_shares_joined_are_the_whole(one, tmp_path):
    shutil.copytree(one.workdir, tmp_path / "run")
    run, settings = Run(tmp_path / "run", one.data_dir), ONE_EPOCH
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
