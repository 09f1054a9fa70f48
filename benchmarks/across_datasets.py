"""Evaluates the models of a work folder on another data set: `python -m benchmarks.across_datasets WORKDIR`.

The other data set must have the same classes in the same order.  Prints, for each trained model, its accuracy on all
images: clean, under white-box FGSM at three eps and under PGD with 20 steps.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable, Iterator

import keras
from absl import flags

import tfadv
from tfadv.datasets import sources
from tfadv.errors import UserError
from tfadv.experiments.paper import EPSILONS

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", FLAGS)
flags.DEFINE_string("dataset", "oxford_iiit_pet", "The other data set.", FLAGS)
flags.DEFINE_string("label", "species", "Its feature that holds the class.", FLAGS)
flags.DEFINE_string("fit", "resize", "How its images are brought to the size of the model: pad or resize.", FLAGS)


def lines(paths: Iterable[pathlib.Path]) -> Iterator[str]:
    """A Markdown table, line by line, with a row for the model of each file; raises UserError where it doesn't fit."""
    levels = " / ".join(map(str, EPSILONS))
    header = ["model", "recipe", "clean", f"FGSM {levels}", f"PGD-20 {levels}", f"PGD-20 {EPSILONS[-1]}, 95% interval"]
    yield _line(header)
    yield _line(["---"] * len(header))
    for path in paths:
        yield _line(_row(path))


def _row(path: pathlib.Path) -> list[str]:
    model = keras.models.load_model(path, compile=False)
    dataset = sources.load(FLAGS.dataset, FLAGS.data_dir, model.input_shape[1], FLAGS.label, FLAGS.fit)
    if len(dataset.class_names) != model.output_shape[1]:
        raise UserError(f"{path} has {model.output_shape[1]} classes, {FLAGS.dataset} {len(dataset.class_names)}.")
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


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Prints the table, each row as soon as it is measured."""
    try:
        _, *folders = FLAGS(arguments)
    except flags.Error as error:
        raise SystemExit(str(error))
    paths = [path for folder in folders for path in sorted(pathlib.Path(folder).glob("models/*/*/model.keras"))]
    if not paths:
        raise SystemExit("Give a work folder with trained models: python -m benchmarks.across_datasets WORKDIR.")
    try:
        for line in lines(paths):
            print(line, flush=True)
    except UserError as error:
        raise SystemExit(str(error))


if __name__ == "__main__":
    main(sys.argv)
