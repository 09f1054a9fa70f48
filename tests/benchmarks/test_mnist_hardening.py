"""The MNIST benchmark of defenses, on two epochs and few images."""

import pathlib
import re
import subprocess
import sys


def test_it_trains_and_attacks(real_data):
    flags = [
        f"--data_dir={real_data}",
        "--defense=nfgsm",
        "--epochs=2",
        "--images=50",
        "--attacks=pgd(steps=2;restarts=2)",
    ]
    command = [sys.executable, "-m", "benchmarks.mnist_hardening", *flags]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search("epoch [12] kept", done.stdout) and "pgd, eps 0.3:" in done.stdout
    clean = float(done.stdout.split("all test images, clean: ")[1].split("%")[0])
    assert 90 < clean < 100
