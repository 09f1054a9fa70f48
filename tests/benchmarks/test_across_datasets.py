"""The benchmark on another data set, with an untrained model on digits."""

import dataclasses

import keras
import numpy as np

from benchmarks import across_datasets
from tfadv import models


def test_every_model_has_a_row_with_its_accuracies_on_all_images(tmp_path, digits):
    keras.utils.set_random_seed(0)
    model = models.build("resnet_tiny", (16, 16, 1), 10)
    folder = tmp_path / "run" / "models" / "resnet_tiny" / "baseline"
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    dataset = dataclasses.replace(digits, images=digits.images[:60, ::2, ::2], labels=digits.labels[:60])
    *_, row = across_datasets.lines([folder / "model.keras"], dataset)
    name, recipe, clean, fgsm, pgd, interval = (cell.strip() for cell in row.strip("|").split("|"))
    accuracy = (model.predict(dataset.images / np.float32(255), verbose=0).argmax(1) == dataset.labels).mean()
    assert (name, recipe, clean) == ("resnet_tiny", "baseline", f"{100 * accuracy:.1f}")
    fgsm, pgd = ([float(value) for value in cell.split(" / ")] for cell in (fgsm, pgd))
    assert accuracy * 100 >= fgsm[0] >= fgsm[2] and all(b <= a for a, b in zip(fgsm, pgd))
    low, high = map(float, interval.split("–"))
    assert low <= pgd[2] <= high
