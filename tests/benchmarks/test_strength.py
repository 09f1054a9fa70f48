"""The comparison of strength, on a small work folder; no time is asserted."""

import json

import pytest
from absl import app

from benchmarks import strength, strength_libraries
from tfadv import attacks, models


def compare(*flags):
    names = {"libraries": strength_libraries.LIBRARIES, "attacks": strength_libraries.ATTACKS}
    every = [f"--{flag}={','.join(known)}" for flag, known in names.items()]  # flags of an earlier call stay
    strength.main(strength.SETTINGS(["strength", *every, *flags]))


def read(folder):
    return [json.loads(line) for line in (folder / "strength.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_rows_of_all_libraries_that_are_installed(tmp_path, digits, data_dir):
    folder = tmp_path / "models" / "resnet_tiny" / "baseline"
    folder.mkdir(parents=True)
    models.build("resnet_tiny", digits.images.shape[1:], 10).save(folder / "model.keras")
    (tmp_path / "split").mkdir()
    splits = {"dataset": "digits/1.0.0", "images_sha256": digits.digest(), "test": list(range(40))}
    (tmp_path / "split" / "splits.json").write_text(json.dumps(splits))
    flags = [f"--workdir={tmp_path}", f"--data_dir={data_dir}", f"--out={tmp_path}/out", "--model=resnet_tiny"]
    flags += ["--defenses=baseline", "--images=20", "--eps=0.03", "--attacks=pgd,mifgsm,apgd-ce"]
    compare(*flags)
    rows = read(tmp_path / "out")
    assert {row["attack"] for row in rows if row["library"] == "tfadv"} == {"pgd", "mifgsm", "apgd-ce"}
    assert len({row["clean"] for row in rows}) == 1  # the same network in Keras and PyTorch
    assert all(row["robust"] <= row["clean"] and row["farthest"] <= 0.03 + 1e-6 for row in rows)
    assert (tmp_path / "out" / "strength.md").read_text().count("\n") == len(rows) + 2
    compare(*flags, "--libraries=tfadv")  # nothing is measured twice
    assert len(read(tmp_path / "out")) == len(rows)
    compare(*flags, "--libraries=tfadv", "--attacks=pgd", "--seed=1")
    assert len(read(tmp_path / "out")) == len(rows) + 1

    splits["images_sha256"] = "of other images"
    (tmp_path / "split" / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(app.UsageError, match="not those that"):
        compare(*flags, "--eps=0.02")


@pytest.mark.parametrize("flag", ["--attacks=cw", "--libraries=advertorch"])
def test_names_that_are_unknown_are_named(flag):
    with pytest.raises(app.UsageError, match=flag.replace("=", " has '")):
        compare(flag)


def test_all_attacks_are_tfadvs():
    assert set(strength_libraries.ATTACKS) <= set(attacks.ATTACKS)
    assert set(strength_libraries.PARTS) <= set(attacks.AutoAttack(attacks=strength_libraries.PARTS).attacks)
    for library in strength_libraries.LIBRARIES.values():
        assert set(library.attacks) <= set(strength_libraries.ATTACKS)
