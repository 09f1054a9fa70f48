"""The benchmark of input sizes, on few digits."""

import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.long
def test_accuracies_are_measured_at_each_size_in_both_units(data_dir):
    flags = ["--dataset=digits", f"--data_dir={data_dir}", "--sizes=16,24", "--train_size=300", "--epochs=3"]
    command = [sys.executable, "-m", "benchmarks.input_sizes", *flags]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [re.findall(r"[\d.]+", line) for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["16", "24"]
    for row in rows:
        clean, pixel, normalized = float(row[1]), [*map(float, row[2:5])], [*map(float, row[5:8])]
        assert clean >= pixel[0] >= pixel[1] >= pixel[2] and clean >= normalized[0] >= normalized[1] >= normalized[2]
        # The standard deviation is below 1, so that eps is smaller in the second unit.
        assert all(b >= a for a, b in zip(pixel, normalized)) and normalized[2] > pixel[2]
