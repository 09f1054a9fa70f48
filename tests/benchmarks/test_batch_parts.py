import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the memory in use from /proc")
def test_parts_take_less_memory():
    flags = "--model=resnet_tiny", "--image_size=160", "--batch_size=256"
    memory = []
    for parts in (1, 16):
        command = [sys.executable, "-m", "benchmarks.batch_parts", f"--parts={parts}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        memory.append(
            float(re.fullmatch(rf"{parts} parts: ([\d.]+) GB more than before, .+ s per step\n", done.stdout)[1])
        )
    assert memory[1] < 0.8 * memory[0]
