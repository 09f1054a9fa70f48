"""The comparison runs on a small work folder; no time is asserted."""

import json
import pathlib
import subprocess
import sys

from benchmarks import strength_libraries
from tfadv import attacks, models

ROOT = pathlib.Path(__file__).parents[2]


def compare(*flags):
    command = [sys.executable, "-m", "benchmarks.strength", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def measured(*flags):
    done = compare(*flags)
    assert done.returncode == 0, done.stderr[-2000:]


def read(folder):
    return [json.loads(line) for line in (folder / "strength.jsonl").read_text().splitlines()]


def test_rows_of_all_libraries_that_are_installed(tmp_path, digits, data_dir):
    folder = tmp_path / "models" / "resnet_tiny" / "baseline"
    folder.mkdir(parents=True)
    models.build("resnet_tiny", digits.images.shape[1:], 10).save(folder / "model.keras")
    (tmp_path / "split").mkdir()
    splits = {"dataset": "digits/1.0.0", "images_sha256": digits.digest(), "test": list(range(40))}
    (tmp_path / "split" / "splits.json").write_text(json.dumps(splits))
    flags = [f"--workdir={tmp_path}", f"--data_dir={data_dir}", f"--out={tmp_path}/out", "--model=resnet_tiny"]
    flags += ["--recipes=baseline", "--images=20", "--eps=0.03", "--attacks=pgd,mifgsm,apgd-ce"]
    measured(*flags)
    rows = read(tmp_path / "out")
    assert {row["attack"] for row in rows if row["library"] == "tfadv"} == {"pgd", "mifgsm", "apgd-ce"}
    assert len({row["clean"] for row in rows}) == 1  # the same network in Keras and PyTorch
    assert all(row["robust"] <= row["clean"] and row["farthest"] <= 0.03 + 1e-6 for row in rows)
    assert (tmp_path / "out" / "strength.md").read_text().count("\n") == len(rows) + 2
    measured(*flags, "--libraries=tfadv")  # nothing is measured twice
    assert len(read(tmp_path / "out")) == len(rows)
    measured(*flags, "--libraries=tfadv", "--seed=1")
    assert len(read(tmp_path / "out")) == len(rows) + 3

    splits["images_sha256"] = "of other images"
    (tmp_path / "split" / "splits.json").write_text(json.dumps(splits))
    other = compare(*flags, "--eps=0.02")
    assert other.returncode != 0 and "not those that" in other.stderr


def test_names_that_are_unknown_are_named():
    for flag in ("--attacks=cw", "--libraries=advertorch"):
        done = compare(flag)
        assert done.returncode != 0 and flag.split("=")[1] in done.stderr and "tfadv" in done.stderr + done.stdout


def test_rows_of_an_older_version_are_not_mixed_with_new_ones(tmp_path):
    (tmp_path / "strength.jsonl").write_text(json.dumps({"variant": "baseline", "contender": "tfadv"}) + "\n")
    done = compare(f"--out={tmp_path}")
    assert done.returncode != 0 and "another --out" in done.stderr


def test_all_attacks_are_tfadvs():
    assert set(strength_libraries.ATTACKS) <= set(attacks.ATTACKS)
    assert set(strength_libraries.PARTS) <= set(attacks.AutoAttack(attacks=strength_libraries.PARTS).attacks)
    for library in strength_libraries.LIBRARIES.values():
        assert set(library.attacks) <= set(strength_libraries.ATTACKS)
