"""The benchmark runs and its figures hang together; no time is asserted."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import contenders, sections, table
from benchmarks.bench import Bench
from benchmarks.processes import by_turns

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_quick_run_writes_rows_of_every_section(tmp_path):
    command = [sys.executable, "-m", "benchmarks.run", "--quick", f"--out={tmp_path}", f"--data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "results.json").read_text())
    own = {row["work"] for row in result["rows"] if row["contender"] == "tfadv"}
    assert own >= {
        *("FGSM, 3 eps", "PGD-10", "training step", "epoch", "generate", "read samples", "bytes of a sample"),
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


def test_by_turns_warms_up_interleaves_and_takes_medians():
    order, clock = [], {"a": iter([9, 1, 5, 2]), "b": iter([9, 7, 7, 8])}

    def call(name):
        order.append(name)
        return next(clock[name])

    found = by_turns({name: lambda name=name: call(name) for name in "ab"}, 3)
    assert order == list("abababab")
    assert found == {"a": {"median": 2, "least": 1, "most": 5}, "b": {"median": 7, "least": 7, "most": 8}}


@pytest.mark.parametrize("once, thrice, seconds", [(5, 9, 2), (9, 9, 3), (9, 6, 2)])
def test_an_epoch_takes_time_even_where_noise_hides_it(once, thrice, seconds):
    class Fake:
        def call(self, method, number, folder):
            return {1: once, 3: thrice}[number], None

    assert sections._epoch(Fake(), "folder") == seconds


def test_flops_of_a_resnet18():
    """torchvision's table gives 1.81 billion multiply-adds at 224 x 224 pixels."""
    from tfadv import models

    counted = contenders.flops(models.build("resnet18", (224, 224, 3), 1000))
    assert counted == pytest.approx(2 * 1.814e9, rel=0.005)


def test_images_are_in_range_and_always_the_same():
    (x, y), (again, _) = contenders.images(3, 32), contenders.images(3, 32)
    assert x.shape == (3, 32, 32, 3) and x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1 and y.max() < 10
    np.testing.assert_array_equal(x, again)


def test_a_peer_that_made_other_images_is_void(tmp_path):
    class Fake:
        def __init__(self, name, shift):
            self.name, self.made = name, np.zeros((1, 2, 4, 4, 3), np.float32) + shift

        def call(self, method, wanted=True, least=0.0, **arguments):
            return 1.0, self.made if wanted else None

    bench = Bench(tmp_path, tmp_path, models=["m"], sizes=[32], repeats=1, quick=True, data_dir=tmp_path)
    bench.flops, bench.limit = {("m", 4): 1}, 1e9
    fakes = [Fake("tfadv", 0), Fake("torchattacks", 0), Fake("ART", 0.02)]
    sections._attack_rows(bench, fakes, "m", 4, 2, "FGSM, 3 eps", "fgsm", {}, 0.01, 2)
    assert [r["against"] for r in bench.rows if "ratio" in r] == ["torchattacks"]
    (void,) = [r for r in bench.rows if "void" in (r.get("remark") or "")]
    assert void["contender"] == "ART" and "void" in table.line(void)
