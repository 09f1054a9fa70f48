"""--split=official: figures on the data set's own test split."""

import json
import types

import keras
import numpy as np
import pytest

from tests.datasets.test_any_tfds import IMAGE, LABEL, write
from tests.pipeline.conftest import CHEAP
from tests.smoke import Smoke
from tfadv.datasets import DATASETS, sources
from tfadv.errors import UserError
from tfadv.pipeline import stages


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


@pytest.mark.long
def test_a_trained_model_on_a_data_set_of_test_images_only(tmp_path, data_dir):
    """As cifar10_corrupted is."""
    features = {"image": IMAGE(shape=(8, 8, 3)), "label": LABEL(num_classes=3)}
    path = write(tmp_path / "tfds", features, 30, size=(8, 8), splits=("test",))
    model, file = (
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]),
        "mine.keras",
    )
    model.save(tmp_path / file)
    run = Smoke(tmp_path / "run", data_dir)
    flags = (f"--dataset={path}", "--split=official", "--stage=evaluate", "--input_range=0,1", CHEAP)
    run.succeed(f"--models={tmp_path / file}", "--attacks=sparse-rs(steps=5)@2", *flags)
    records = run.records()
    assert {record["n"] for record in records} == {30}
    assert [record["eps"] for record in records if record["attack"] == "sparse-rs"] == [2.0]


def test_without_training_images_nothing_is_trained():
    own = {"models": ("mine.keras",), "stage": "report", "export": ()}
    own |= {"dataset": "cifar10_corrupted/fog_3", "input_range_given": (0.0, 1.0)}

    def check(images=0, defenses=(), **changes):
        dataset, config = types.SimpleNamespace(sizes={"train": images}), types.SimpleNamespace(**own | changes)
        stages._check_training_images(types.SimpleNamespace(dataset=dataset, config=config, defenses=defenses))

    check()
    check(images=1, stage="generate", defenses=("nfgsm",), input_range_given=None)
    wrong = ({"defenses": ("nfgsm",)}, {"models": ("resnet18",)}, {"stage": "generate"})
    for changes in (*wrong, {"export": ("litert_int8",)}):
        with pytest.raises(UserError, match="fog_3 has test images only, so nothing can be trained"):
            check(**changes)
    with pytest.raises(UserError, match="give --input_range"):
        check(input_range_given=None)


@pytest.mark.parametrize("images, following", [(0, "--stage=explain"), (9, "--defenses=nfgsm")])
def test_no_defense_is_suggested_without_training_images(tmp_path, images, following):
    config = types.SimpleNamespace(
        stage="report", attack_specs=("pgd",), models=("mine.keras",), defenses="", workdir=tmp_path
    )
    run = types.SimpleNamespace(config=config, workdir=types.SimpleNamespace(root=tmp_path), defenses=())
    run.dataset = types.SimpleNamespace(sizes={"train": images})
    run.network = lambda _: types.SimpleNamespace(access="")
    assert stages._next_step(run).endswith(following)


def test_digits_are_refused(tmp_path, data_dir):
    failed = Smoke(tmp_path / "run", data_dir)("--split=official")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "--split=official needs the splits train and test" in failed.stderr
    assert "use --split=stratified" in failed.stderr.splitlines()[-1]
