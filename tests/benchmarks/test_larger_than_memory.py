import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_one_epoch_in_little_memory(tmp_path):
    flags = "--gigabytes=0.05", "--image_size=32", f"--folder={tmp_path}"
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("16,276 images, 0.05 GB") and "one epoch in" in done.stdout
    assert float(re.search(r"validation accuracy ([\d.]+)%", done.stdout)[1]) > 50  # ten classes: it saw the labels
    tenths = list(map(float, done.stdout.split("GB:")[-1].split()))
    assert len(tenths) == 10 and 0.1 < min(tenths) <= max(tenths) < 2
    assert not list(tmp_path.iterdir())  # the file has no name
