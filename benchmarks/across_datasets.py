"""The models of a work folder on another data set: `python -m benchmarks.across_datasets WORKDIR`.

Prints, for each trained model, its accuracy on all images of the other data set, which has to have the same classes in
the same order: clean, under white-box FGSM at three eps and under PGD with 20 steps.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable, Iterator

import keras
from absl import app, flags

import tfadv
from tfadv.datasets import sources
from tfadv.experiments.paper import EPSILONS

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.")
flags.DEFINE_string("dataset", "oxford_iiit_pet", "The other data set.")
flags.DEFINE_string("label", "species", "Its feature that holds the class.")
flags.DEFINE_string("fit", "resize", "How its images are brought to the size of the model's input: pad or resize.")


def row(path: pathlib.Path, dataset: sources.ImageDataset) -> list[str]:
    """The cells of the model in the file at `path`."""
    model = keras.models.load_model(path, compile=False)
    fgsm, pgd = (
        tfadv.evaluate(model, dataset.images, dataset.labels, attack, EPSILONS) for attack in ("fgsm", "pgd(steps=20)")
    )
    low, high = pgd.interval[-1]
    return [
        *path.parts[-3:-1],
        f"{100 * fgsm.clean_accuracy:.1f}",
        *(" / ".join(f"{100 * value:.1f}" for value in result.robust_accuracy) for result in (fgsm, pgd)),
        f"{100 * low:.1f}–{100 * high:.1f}",
    ]


def lines(paths: Iterable[pathlib.Path], dataset: sources.ImageDataset) -> Iterator[str]:
    """A Markdown table, line by line, with a row for the model of each file."""
    levels = " / ".join(map(str, EPSILONS))
    header = ["model", "recipe", "clean", f"FGSM {levels}", f"PGD-20 {levels}", f"interval at {EPSILONS[-1]}"]
    for cells in itertools.chain((header, ["---"] * len(header)), (row(path, dataset) for path in paths)):
        yield f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Prints the table, each row as soon as it is measured."""
    paths = sorted(pathlib.Path(arguments[1]).glob("models/*/*/model.keras"))
    size = keras.models.load_model(paths[0], compile=False).input_shape[1]
    dataset = sources.load(FLAGS.dataset, FLAGS.data_dir, size, FLAGS.label, FLAGS.fit)
    print(f"{len(dataset.labels)} images, classes {', '.join(dataset.class_names)}\n")
    for line in lines(paths, dataset):
        print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
