"""Accuracy under FGSM over the size of the images and the unit of eps: `python -m benchmarks.input_sizes`.

Trains ResNet18 on few images of several sizes, and attacks it with eps 0.01, 0.02 and 0.03 of the paper in two units:
that of a pixel in [0, 1], and that of a pixel divided by the standard deviation of the data set.
"""

from __future__ import annotations

import time

import numpy as np
from absl import app, flags

import tfadv
from tfadv import models
from tfadv.datasets import sources, splits
from tfadv.datasets.batches import Samples
from tfadv.experiments.paper import EPSILONS, FGSM, ROWS
from tfadv.objectives import OBJECTIVES
from tfadv.training import Trainer, TrainingSettings

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.")
flags.DEFINE_string("dataset", "mnist", "The data set.")
flags.DEFINE_list("sizes", ["32", "64", "96"], "Sizes of the images, pixels per side.")
flags.DEFINE_string("fit", "resize", "How images are brought to that size: pad or resize.")
flags.DEFINE_integer("train_size", 3000, "Number of training images.")
flags.DEFINE_integer("epochs", 8, "Epochs of training.")
flags.DEFINE_integer("test_size", 1000, "Number of test images.")


def measure(size: int) -> tuple[float, list[float], list[float]]:
    """Accuracies in percent: on clean images, and under FGSM at the paper's three eps in each unit."""
    dataset = sources.load(FLAGS.dataset, FLAGS.data_dir, size, fit=FLAGS.fit)
    rows = splits.stratified_splits(dataset.labels, 0, FLAGS.train_size)
    train, test = rows["train"], np.random.default_rng(0).permutation(rows["test"])[: FLAGS.test_size]
    model = models.build("resnet18", dataset.images.shape[1:], len(dataset.class_names))
    trainer = Trainer(model, weight_decay=5e-4, objective=OBJECTIVES["cross_entropy"])
    samples = [Samples(dataset.images[r], dataset.labels[r]) for r in (train, rows["validation"][: FLAGS.test_size])]
    trainer.fit(*samples, TrainingSettings(FLAGS.epochs, batch_size=64, learning_rate=0.05, patience=FLAGS.epochs))
    std = float((dataset.images[train] / 255).std())
    epsilons = [*EPSILONS, *(eps * std for eps in EPSILONS)]
    result = tfadv.evaluate(model, dataset.images[test], dataset.labels[test], "fgsm", epsilons)
    accuracies = [100 * float(accuracy) for accuracy in result.robust_accuracy]
    return 100 * result.clean_accuracy, accuracies[:3], accuracies[3:]


def main(_: list[str]) -> None:
    """Prints a Markdown table, one row per size as soon as it is measured."""
    print("| image size | clean | FGSM, eps of [0, 1] pixels | FGSM, eps of normalized pixels | minutes |")
    print("| --- | --- | --- | --- | --- |")
    if FLAGS.dataset in ROWS:
        paper = _cell([accuracies[0] for accuracies in FGSM[ROWS[FLAGS.dataset]]["baseline"]])
        print(f"| the paper's ResNet18 | | {paper} | {paper} | |")
    for size in map(int, FLAGS.sizes):
        start = time.perf_counter()
        clean, pixel, normalized = measure(size)
        minutes = (time.perf_counter() - start) / 60
        cells = (str(size), f"{clean:.1f}", _cell(pixel), _cell(normalized), f"{minutes:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def _cell(accuracies: list[float]) -> str:
    return " / ".join(f"{accuracy:.1f}" for accuracy in accuracies)


if __name__ == "__main__":
    app.run(main)
