"""Attacks on several devices find, image by image, what they find on one."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.harness import ROOT, local_host_configs

# One process has its devices for good, so these run in their own.
BEGIN = """
import json, sys, threading, time, traceback
import tfadv, keras, numpy as np, tensorflow as tf
from tfadv.errors import UserError
from tfadv.attacks import ATTACKS, parse
from tfadv.attacks.cost import Cost
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.evaluator import Execution, evaluate
from tfadv.evaluation.smoothing import certify
from tfadv.runtime import compilation, signals
from tfadv.runtime.devices import Devices
from tfadv.store.resume import ResumeLog
devices = Devices(sys.argv[1])
with devices.strategy.scope():
    keras.utils.set_random_seed(0)
    layers = keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(5)
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
rng = np.random.default_rng(0)
x = rng.uniform(size=(21, 8, 8, 1)).astype("float32")
y = model.predict(x, verbose=0).argmax(axis=1)
y[3] = (y[3] + 1) % 5  # one image that is misclassified from the start
"""

EVERY_ATTACK = """
found = tried = 0
for name in [n for n in ATTACKS if ATTACKS[n]().has_eps] if sys.argv[4] == "every" else ("fgsm", "apgd-t"):
    few = {"autoattack": "autoattack(steps=5, queries=20, targets=2)", "fast": "fast(steps=5, queries=20)"}
    text = (few | {"square": "square(steps=30)"}).get(
        name, name if name in ("fgsm", "onestep") else f"{name}(steps=6)")
    attack, one, several = parse(text), Cost(), Cost()
    sizes = [0, 1, 6] if name == "sparse-rs" else [0.0, 0.02, 0.1]
    expected = attack(model, x, y, sizes, seed=1, cost=one).numpy()
    reported = []
    common = {"seed": 1, "batch_size": 8, "cost": several, "progress": reported.append}
    result = OnAllDevices(attack, devices)(model, x, y, sizes, **common)
    assert sum(reported) == len(x)
    np.testing.assert_array_equal((result != x).any(axis=(2, 3, 4)), (expected != x).any(axis=(2, 3, 4)), name)
    # How many restarts or targets run at the same time depends on the number of images.  So do their cost, a little,
    # and the one that succeeds first.
    if name not in ("apgd-t", "fab-t", "fast", "autoattack"):
        np.testing.assert_allclose(result, expected, atol=1e-6, err_msg=name)
    assert abs(several.gradients - one.gradients) <= 0.1 * one.gradients, (name, several, one)
    assert several.remaining == one.remaining, name
    tried += 1
    found += (expected[2] != x).any(axis=(1, 2, 3)).sum()
assert found > 10 * tried  # of 21 images
one = certify(model, x, y, n=60, n0=20)
several = certify(model, x, y, n=60, n0=20, batch_size=50, execution=Execution(devices))
np.testing.assert_array_equal(several.counts, one.counts)
print("equal")
"""

HOSTS = """
assert devices.replicas == devices.workers == 2
for text in ("pgd(steps=6)", "autoattack(steps=5, queries=20, targets=2)"):
    attack, one, several = parse(text), Cost(), Cost()
    expected = attack(model, x, y, [0.0, 0.02, 0.1], cost=one).numpy()
    reported = []
    common = {"batch_size": 8, "cost": several, "progress": reported.append}
    result = OnAllDevices(attack, devices)(model, x, y, [0.0, 0.02, 0.1], **common)
    assert sum(reported) == len(x)
    np.testing.assert_array_equal((result != x).any(axis=(2, 3, 4)), (expected != x).any(axis=(2, 3, 4)), text)
    if text.startswith("pgd"):
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert several.remaining == one.remaining
    assert abs(several.gradients - one.gradients) <= 0.1 * one.gradients
result = evaluate(model, x, y, "pgd(steps=6)", [0.02, 0.1], batch_size=8, execution=Execution(devices))
expected = evaluate(model, x, y, "pgd(steps=6)", [0.02, 0.1], batch_size=8, execution=Execution())
np.testing.assert_array_equal(result.robust, expected.robust)
assert result.cost.gradients == expected.cost.gradients
print("equal")
"""

# A variable is read from the copy on the device: copies that differ give other results.
OWN_COPY = """
attack = parse("pgd(steps=3)")
zeros = model.trainable_variables[-2].value.values[1]
zeros.assign(0 * zeros)
with devices.strategy.scope(), tf.device(devices.strategy.extended.worker_devices[1]):
    expected = attack(model, x[1::2], y[1::2], [0.05]).numpy()
result = OnAllDevices(attack, devices)(model, x, y, [0.05], batch_size=64)
np.testing.assert_array_equal(result[:, 1::2], expected)
assert (result[:, 1::2] != attack(model, x, y, [0.05]).numpy()[:, 1::2]).any()
few = OnAllDevices(attack, devices)(model, x[:1], y[:1], [0.05], batch_size=64)  # too few images for two devices
assert few.shape == (1, 1, 8, 8, 1)
sizes = []
def record(model, x, y, eps, *, batch_size, **options):
    sizes.append(batch_size)
    return np.zeros((1, *x.shape), np.float32)
OnAllDevices(record, devices)(model, x, y, [0.05], batch_size=10)
assert sizes == [5, 5]  # as much memory on each device as in training
print("own copy")
"""

RESUMED = """
import pathlib
folder = pathlib.Path(sys.argv[3])
served = []
load = ResumeLog.load
def load_and_count(self):
    saved = load(self)
    served.append(bool(saved) and saved[0] == "done")
    return saved
ResumeLog.load = load_and_count
attack = parse("autoattack(steps=5, queries=20, targets=2)")
def distributed(**options):
    return OnAllDevices(attack, devices)(model, x, y, [0.02, 0.1], batch_size=64, **options)
expected = Cost()
whole = distributed(cost=expected)
distributed(resume=ResumeLog(folder, interval=0.0))
units, served[:] = len(served), []
files = sorted(folder.rglob("*.npz"))
assert {path.parent.name for path in files} == {"device-0-of-2", "device-1-of-2"} and len(files) == units
for device in range(2):  # as if a kill had come before the last two were written
    for path in [path for path in files if path.parent.name == f"device-{device}-of-2"][-2:]:
        path.unlink()
cost = Cost()
np.testing.assert_array_equal(distributed(resume=ResumeLog(folder, interval=0.0), cost=cost), whole)
assert cost == expected and sum(served) == units - 4 > 4
print("resumed")
"""

ENDED = """
slow = threading.Event()
def attack(model, x, y, eps, *, resume, **options):
    if len(x) == 10:  # the second device fails
        slow.wait()
        raise ValueError("no such image")
    slow.set()
    while True:  # the first one would go on forever
        time.sleep(0.01)
        resume.partial(0, list)
started = time.monotonic()
try:
    OnAllDevices(attack, devices)(model, x, y, [0.1], batch_size=64)
except ValueError as error:
    assert str(error) == "no such image" and time.monotonic() < started + 5
    assert signals.DEVICE_THREAD not in [thread.name for thread in threading.enumerate()]
    print("ended")
"""

EVALUATED = """
one = evaluate(model, x, y, "pgd(steps=5)", [0.02, 0.1], batch_size=8, execution=Execution())
several = evaluate(model, x, y, "pgd(steps=5)", [0.02, 0.1], batch_size=8, execution=Execution(devices))
np.testing.assert_array_equal(one.clean_correct, several.clean_correct)
np.testing.assert_array_equal(one.adversarial_correct, several.adversarial_correct)
assert one.cost.gradients == several.cost.gradients and 0 < one.robust.sum() < one.robust.size
if sys.argv[4] == "every":
    compilation.configure(jit_compile="true")
    xla = evaluate(model, x, y, "pgd(steps=5)", [0.02, 0.1], batch_size=8, execution=Execution(devices))
    np.testing.assert_array_equal(one.robust, xla.robust)
try:
    evaluate(model, x, y, None, batch_size=7, execution=Execution(devices))
except UserError as error:
    assert "can't be shared equally by 2 devices" in str(error)
    print("evaluated")
"""


SCRIPTS = {  # one after the other in one process: it takes seconds to start, and compiles an attack once
    "equal": EVERY_ATTACK,
    "resumed": RESUMED,
    "ended": ENDED,
    "evaluated": EVALUATED,
    "own copy": OWN_COPY,
}
RUN_ALL = """
for script in json.loads(sys.argv[2]):
    try:
        exec(script)
    except Exception:
        traceback.print_exc()
    compilation.configure()
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory, long):
    """What the scripts print on two devices, the last word of each, and their errors."""
    arguments = [
        "cpu:2",
        json.dumps(list(SCRIPTS.values())),
        str(tmp_path_factory.mktemp("log")),
        "every" if long else "few",
    ]
    command = [sys.executable, "-c", BEGIN + RUN_ALL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500)
    return done.stdout.splitlines(), done.stderr[-3000:]


def test_every_attack_finds_the_same_on_each_image(printed):
    assert "equal" in printed[0], printed[1]


@pytest.mark.long
def test_two_hosts():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN.replace("sys.argv[1]", '"multiworker"') + HOSTS],
            env=os.environ | {"TF_CONFIG": config},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for config in local_host_configs(2)
    ]
    with ThreadPoolExecutor() as pool:  # both are read at the same time: neither waits for room in its pipe
        outputs = list(pool.map(output_of, processes))
    assert all(output.strip().splitlines()[-1:] == ["equal"] for output in outputs), outputs[0][-3000:]


def output_of(process):
    try:
        return process.communicate(timeout=180)[0]
    finally:
        process.kill()


def test_each_device_reads_its_own_copy_of_the_model(printed):
    assert "own copy" in printed[0], printed[1]


def test_an_interrupted_attack_continues_on_each_device(printed):
    assert "resumed" in printed[0], printed[1]


def test_an_error_on_one_device_ends_the_others(printed):
    assert "ended" in printed[0], printed[1]


def test_an_evaluation_counts_the_same(printed):
    assert "evaluated" in printed[0], printed[1]
