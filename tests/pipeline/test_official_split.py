"""--split=official: figures on the data set's own test split."""

import json

import numpy as np
import pytest

from tests.smoke import Smoke
from tfadv.datasets import DATASETS, sources


def splits(run):
    record = json.loads((run.workdir / "split/splits.json").read_text())
    return {split: record[split] for split in ("train", "validation", "test")}


@pytest.mark.parametrize("name", [pytest.param("mnist", marks=pytest.mark.long), "oxford_iiit_pet"])
def test_test_images_are_the_official_ones(real_data, tmp_path, name):
    run = Smoke(tmp_path / "run", real_data)
    run.succeed(f"--dataset={name}", "--split=official", "--train_size=200", "--stage=prepare")
    dataset, rows = sources.load(name, real_data, DATASETS[name].image_size), splits(run)
    official = dataset.official_splits
    assert rows["test"] == list(official["test"]) and len(rows["train"]) == 200
    assert len(rows["validation"]) == round(0.1 * len(official["train"]))
    assert set(rows["train"]) | set(rows["validation"]) <= set(official["train"])
    assert not set(rows["train"]) & set(rows["validation"])
    counts = np.bincount(dataset.labels[rows["validation"]]) / len(rows["validation"])
    assert np.abs(counts - np.bincount(dataset.labels[official["train"]]) / len(official["train"])).max() < 0.01


@pytest.mark.long
def test_figures_on_the_official_test_split(real_data, tmp_path):
    run = Smoke(tmp_path / "run", real_data)
    flags = ("--dataset=oxford_iiit_pet", "--split=official", "--train_size=100", "--epochs=1")
    run.succeed(*flags, "--stage=attack")
    assert {r["n"] for r in run.records()} == {len(splits(run)["test"])}
    other = run("--dataset=oxford_iiit_pet", "--train_size=100", "--epochs=1", "--stage=attack")
    assert other.returncode == 1 and "split: official → stratified" in other.stderr


def test_digits_are_refused(tmp_path, data_dir):
    failed = Smoke(tmp_path / "run", data_dir)("--split=official")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "--split=official needs the splits train and test" in failed.stderr
    assert "use --split=stratified" in failed.stderr.splitlines()[-1]
