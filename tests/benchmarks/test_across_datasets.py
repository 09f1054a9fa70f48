"""The benchmark on another data set, with untrained models on digits."""

import keras
import numpy as np
import pytest

from benchmarks import across_datasets
from tfadv import models


@pytest.fixture
def workdir(tmp_path, digits):
    """A work folder with a model, and the other data set in an .npz file beside it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path / "run" / "models" / "resnet_tiny" / "baseline"
    folder.mkdir(parents=True)
    models.build("resnet_tiny", (16, 16, 1), 10).save(folder / "model.keras")
    np.savez(tmp_path / "other.npz", x=digits.images[:60, ::2, ::2, 0], y=digits.labels[:60])
    return tmp_path / "run"


def table(workdir, capsys):
    across_datasets.main(["", str(workdir), f"--dataset=npz:{workdir.parent / 'other.npz'}", "--label="])
    return capsys.readouterr().out.splitlines()


def test_every_model_has_a_row_with_its_accuracies_on_all_images(workdir, digits, capsys):
    (row,) = table(workdir, capsys)[2:]
    name, recipe, clean, fgsm, pgd, interval = (cell.strip() for cell in row.strip("|").split("|"))
    model = keras.models.load_model(workdir / "models" / "resnet_tiny" / "baseline" / "model.keras")
    logits = model.predict(digits.images[:60, ::2, ::2] / np.float32(255), verbose=0)
    assert (name, recipe) == ("resnet_tiny", "baseline")
    assert clean == f"{100 * (logits.argmax(1) == digits.labels[:60]).mean():.1f}"
    fgsm, pgd = ([float(value) for value in cell.split(" / ")] for cell in (fgsm, pgd))
    assert float(clean) >= fgsm[0] >= fgsm[1] >= fgsm[2] and float(clean) > fgsm[2]
    low, high = map(float, interval.split("–"))
    assert low <= pgd[2] <= high


def test_what_does_not_fit_is_named(workdir, digits, capsys):
    with pytest.raises(SystemExit, match="work folder with trained models"):
        across_datasets.main(["", str(workdir.parent)])
    with pytest.raises(SystemExit, match="Unknown command line flag 'lable'"):
        across_datasets.main(["", str(workdir), "--lable=species"])
    few = digits.labels < 5
    np.savez(workdir.parent / "other.npz", x=digits.images[few][:20, ::2, ::2, 0], y=digits.labels[few][:20])
    with pytest.raises(SystemExit, match="has 10 classes"):
        table(workdir, capsys)
