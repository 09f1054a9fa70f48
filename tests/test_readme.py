"""The Python code of README.md, as written."""

import pathlib
import re
import subprocess
import sys

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

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


def test_the_code_of_the_readme_runs(tmp_path):
    assert len(BLOCKS) == 3
    code = [block.replace('"autoattack"', '"autoattack(steps=2,queries=5)"') for block in BLOCKS]
    code = [block.replace("epochs=10", "epochs=1").replace("steps=50", "steps=2") for block in code]
    text = "\n".join([BEFORE, code[0], BETWEEN, *code[1:]])
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "autoattack, eps 0.03137:" in done.stdout and (tmp_path / "hardened.keras").is_file()
