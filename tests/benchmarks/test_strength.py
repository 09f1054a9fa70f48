"""The comparison runs on a small work folder; no time is asserted."""

import json
import pathlib
import subprocess
import sys

from tfadv import models

ROOT = pathlib.Path(__file__).parents[2]


def compare(*flags):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.strength", *flags], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_rows_of_all_that_is_installed(tmp_path, digits, data_dir):
    folder = tmp_path / "models" / "resnet_tiny" / "baseline"
    folder.mkdir(parents=True)
    models.build("resnet_tiny", digits.images.shape[1:], 10).save(folder / "model.keras")
    (tmp_path / "split").mkdir()
    division = {"dataset": "digits/1.0.0", "test": list(range(40))}
    (tmp_path / "split" / "division.json").write_text(json.dumps(division))
    flags = [f"--workdir={tmp_path}", f"--data_dir={data_dir}", f"--out={tmp_path}/out", "--model=resnet_tiny"]
    flags += ["--variants=baseline", "--images=20", "--eps=0.03", "--attacks=pgd,mifgsm,apgd-ce"]
    compare(*flags)
    rows = [json.loads(line) for line in (tmp_path / "out" / "strength.jsonl").read_text().splitlines()]
    assert {row["attack"] for row in rows if row["contender"] == "tfadv"} == {"pgd", "mifgsm", "apgd-ce"}
    clean = {row["clean"] for row in rows}
    assert len(clean) == 1  # the network carried over decides alike
    assert all(row["robust"] <= row["clean"] and row["farthest"] <= 0.03 + 1e-6 for row in rows)
    assert (tmp_path / "out" / "strength.md").read_text().count("\n") == len(rows) + 2
    compare(*flags, "--contenders=tfadv")  # nothing is measured twice
    assert len((tmp_path / "out" / "strength.jsonl").read_text().splitlines()) == len(rows)
    for i, other in enumerate(["--eps=0.02", "--seed=1"], 1):
        compare(*flags, "--contenders=tfadv", other)
        assert len((tmp_path / "out" / "strength.jsonl").read_text().splitlines()) == len(rows) + 3 * i
