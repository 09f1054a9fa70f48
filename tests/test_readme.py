"""The Python code of README.md and of docs/own_model_and_images.md, as written."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# What the reader has: a softmax model on pixels from 0 to 255, and images.
BEFORE = """
import tfadv, keras, numpy as np
x = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
y = np.arange(24) % 3
x_train, y_train = np.repeat(x, 4, axis=0), np.repeat(y, 4)
keras.Sequential([
    keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3, strides=2),
    keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax"),
]).save("mine.keras")
"""
BETWEEN = """
x = x.astype("float32") / 255
model = classifier
"""


def blocks(page):
    """The Python code of a page, with attacks and training that take seconds."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    for slow, fast in (
        ('"autoattack"', '"autoattack(steps=2,queries=5)"'),
        ("epochs=10", "epochs=1"),
        ("steps=50", "steps=2"),
    ):
        found = [block.replace(slow, fast) for block in found]
    return found


def run(folder, *code):
    text = "\n".join([BEFORE, *code])
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_code_of_the_readme_runs(tmp_path):
    own_model, *others = blocks("README.md")
    assert len(others) == 3
    out = run(tmp_path, own_model, BETWEEN, *others)
    assert "autoattack, eps 0.03137:" in out and "smallest_eps" in out and (tmp_path / "hardened.keras").is_file()


def test_the_code_about_own_models_runs(tmp_path):
    (block,) = blocks("docs/own_model_and_images.md")
    assert "(2, 24, 16, 16, 3)" in run(tmp_path, block)
