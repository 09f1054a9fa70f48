"""The benchmark of speed: its rows and its libraries; no time is asserted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale, speed, speed_libraries
from benchmarks.speed_libraries import Case

ROOT = Path(__file__).parents[2]


class FakeWorker:
    """A library that returns the same images in the same time, or fails."""

    def __init__(self, name, shift=0.0, seconds=1.0):
        self.name, self.images, self.seconds = name, np.zeros((1, 2, 4, 4, 3), np.float32) + shift, seconds
        self.calls = 0

    def call(self, method, arguments):
        self.calls += 1
        if self.seconds is None:
            raise speed.Failed("TypeError: no such\nargument")
        return self.seconds, self.images


def test_rows_compare_what_computed_the_same(monkeypatch):
    workers = [
        FakeWorker("tfadv", seconds=0.5),
        FakeWorker("torchattacks", seconds=1.0),
        FakeWorker("ART", shift=0.02),
        FakeWorker("Foolbox", seconds=None),
    ]
    monkeypatch.setattr(speed, "PAUSE", 0)
    rows = list(speed.measure(workers, speed.ATTACKS[0], images=128, rounds=3))
    assert [row[1:6] for row in rows] == [
        ("tfadv", "256", "256", "256", ""),
        ("torchattacks", "128", "128", "128", "2.00"),
        ("ART", "128", "128", "128", ""),
        ("Foolbox", "–", "–", "–", ""),
    ]
    assert rows[2][6] == "void: 100.00% of the pixels differ from tfadv's"
    assert rows[3][6] == "TypeError: no such argument"
    assert [worker.calls for worker in workers] == [4, 4, 4, 1]  # one call to warm up, then the rounds


def test_images_are_in_range_and_always_the_same():
    (x, y), (again, _) = speed_libraries.images(3, 32), speed_libraries.images(3, 32)
    assert x.shape == (3, 32, 32, 3) and x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1 and y.max() < 10
    np.testing.assert_array_equal(x, again)


def test_tfadv_attacks_and_trains(tmp_path):
    tfadv = speed_libraries.Tfadv(Case("resnet_tiny", 16, 4, str(tmp_path / "weights.npz")))
    fgsm, pgd = tfadv.fgsm((0.01, 0.02)), tfadv.pgd(0.03, 3)
    assert fgsm.shape == (2, 4, 16, 16, 3) and pgd.shape == (1, 4, 16, 16, 3)
    np.testing.assert_allclose([np.abs(x - tfadv.x).max() for x in fgsm], [0.01, 0.02], atol=1e-6)
    assert 0.02 < np.abs(pgd - tfadv.x).max() < 0.03
    losses = [tfadv.train() for _ in range(4)]
    assert losses[-1] < losses[0] and tfadv.train_defense("nfgsm") > 0
    with np.load(tmp_path / "weights.npz") as weights:  # which the other libraries read
        assert {variable.path for variable in tfadv.model.weights} == set(weights)


def test_an_unknown_library_is_named():
    command = [sys.executable, "-m", "benchmarks.speed", "--libraries=fast"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "'fast'" in done.stderr and "Foolbox" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_scale_prints_memory_and_rate(capsys):
    scale.SETTINGS(["scale", "--model=resnet_tiny", "--image_size=16", "--batch_size=8", "--parts=2"])
    scale.main([])
    words = capsys.readouterr().out.split()
    assert words[:2] == ["1", "devices:"] and float(words[2]) >= 0 and float(words[-2]) > 0
