"""The benchmark runs and its results are consistent; no time is asserted."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import libraries, sections, table, tfadv_library
from benchmarks.bench import Bench, Case, Options
from benchmarks.processes import Timing, alternate

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_quick_run_writes_rows_of_every_section(tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--quick", f"--out={tmp_path}", f"--data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "results.json").read_text())
    own = {row["work"] for row in result["rows"] if row["library"] == "tfadv"}
    assert own >= {
        *("FGSM, 3 eps", "PGD-10", "training step", "epoch", "generate", "read samples", "bytes per sample"),
        *("FGSM, 10 eps", "epoch, number of images", "start to first attack", "peak memory, training"),
    }
    assert not [row for row in result["rows"] if "void" in (row.get("remark") or "")]
    assert result["machine"]["matmul_gflops"] > 0
    for row in result["rows"]:
        assert row.get("from", 0) <= row.get("images_per_second", 0) <= row.get("to", 0)
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n|") > len(result["rows"])


def test_unknown_section_is_named():
    command = [sys.executable, "-m", "benchmarks.run", "--sections=fast"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "'fast'" in done.stderr and "training" in done.stderr


def test_alternate_warms_up_and_takes_turns():
    order, clock = [], {"a": iter([9, 1, 5, 2]), "b": iter([9, 7, 7, 8])}

    def call(name):
        order.append(name)
        return next(clock[name])

    timings = alternate({name: lambda name=name: call(name) for name in "ab"}, 3)
    assert order == list("abababab")
    assert timings == {"a": Timing((1, 5, 2)), "b": Timing((7, 7, 8))}
    assert (timings["a"].median, timings["a"].least, timings["a"].most) == (2, 1, 5)


@pytest.mark.parametrize("once, thrice, seconds", [(5, 9, 2), (9, 9, 3), (9, 6, 2)])
def test_an_epoch_takes_time_even_where_noise_hides_it(once, thrice, seconds):
    class Fake:
        def call(self, method, number, folder):
            return {1: once, 3: thrice}[number], None

    assert sections.epoch_seconds(Fake(), "folder") == seconds


def test_flops_of_a_resnet18():
    """torchvision's table gives 1.81 billion multiply-adds at 224 x 224 pixels."""
    from tfadv import models

    counted = tfadv_library.flops(models.build("resnet18", (224, 224, 3), 1000))
    assert counted == pytest.approx(2 * 1.814e9, rel=0.005)


def test_images_are_in_range_and_always_the_same():
    (x, y), (again, _) = libraries.images(3, 32), libraries.images(3, 32)
    assert x.shape == (3, 32, 32, 3) and x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1 and y.max() < 10
    np.testing.assert_array_equal(x, again)


def test_every_library_has_its_class():
    for entry in libraries.LIBRARIES.values():
        assert issubclass(entry.load(), libraries.Library)
    assert libraries.installed()[0] == "tfadv"


def test_tfadv_attacks_within_eps(tmp_path):
    tfadv = tfadv_library.Tfadv()
    weights = str(tmp_path / "weights.npz")
    assert tfadv.write_weights("resnet_tiny", 16, weights) > 0
    tfadv.prepare("resnet_tiny", 16, 4, weights)
    fgsm, pgd = tfadv.fgsm((0.01, 0.02)), tfadv.pgd(0.03, 3)
    assert fgsm.shape == (2, 4, 16, 16, 3) and pgd.shape == (1, 4, 16, 16, 3)
    np.testing.assert_allclose([np.abs(x - tfadv.x).max() for x in fgsm], [0.01, 0.02], atol=1e-6)
    assert 0.02 < np.abs(pgd - tfadv.x).max() < 0.03
    tfadv.prepare_training(images=8)
    first = tfadv.train(1)
    assert tfadv.train(3) < first
    tfadv.epochs(1, str(tmp_path))


def test_tfadv_writes_and_reads_samples(tmp_path, data_dir):
    tfadv = tfadv_library.Tfadv()
    tfadv.write_weights("resnet_tiny", 16, str(tmp_path / "weights.npz"))
    tfadv.prepare("resnet_tiny", 16, 4, str(tmp_path / "weights.npz"))
    assert tfadv.prepare_samples(10, data_dir).startswith("digits")
    tfadv.attack_samples()
    assert tfadv.generate(str(tmp_path)) > 10 * 16
    tfadv.read(str(tmp_path), (0.01,))
    np.testing.assert_array_equal(tfadv.samples.images, tfadv.images)
    assert len(tfadv.samples) == 20


def test_a_library_that_computed_other_images_is_void(tmp_path):
    class Fake:
        def __init__(self, name, shift):
            self.name, self.images = name, np.zeros((1, 2, 4, 4, 3), np.float32) + shift

        def call(self, method, **arguments):
            return 1.0, self.images

        def timed(self, method, least_seconds, **arguments):
            return lambda: 1.0

    bench = Bench(tmp_path, tmp_path, Options(("m",), (32,), 1, True, str(tmp_path)))
    bench.matmul_rate, bench._flops = 1e9, {("m", 4): 1}
    fakes = [Fake("tfadv", 0), Fake("torchattacks", 0), Fake("ART", 0.02)]
    sections.attack_rows(bench, fakes, Case("m", 4, 2), sections.FGSM)
    assert [r["against"] for r in bench.rows if "ratio" in r] == ["torchattacks"]
    (void,) = [r for r in bench.rows if "void" in (r.get("remark") or "")]
    assert void["library"] == "ART" and "void" in table.line(void)
