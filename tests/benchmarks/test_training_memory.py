import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_parts_and_rematerialization_take_less_memory():
    def memory(*flags):
        sizes = "--model=resnet18", "--image_size=64", "--batch_size=160"
        command = [sys.executable, "-m", "benchmarks.training_memory", *sizes, *flags]
        done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        return float(re.fullmatch(r"([\d.]+) GB more than before, .+ s per step\n", done.stdout)[1])

    whole = memory()
    assert memory("--parts=16") < 0.8 * whole
    assert memory("--rematerialize") < 0.9 * whole
