"""The folder `results/`: measured accuracies that stay, and pages about them: `python -m benchmarks.results`.

python -m benchmarks.results runs/paper_cifar10     # takes over the results of a work folder, rewrites the pages
python -m benchmarks.results                        # rewrites the pages
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
from absl import app

from benchmarks.answers import QUESTIONS
from tfadv.errors import UserError
from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.experiments.paper import PAPER
from tfadv.experiments.result_files import load_result
from tfadv.report.data import ReportData, Training, with_earlier_rounds
from tfadv.report.tables import report_tables
from tfadv.specs import folder_name

RESULTS = pathlib.Path(__file__).parents[1] / "results"
OUTCOMES = "correct.npz"  # bits: which images the records of results.json count, by their place in it
NOTE = "<!-- Written by `python -m benchmarks.results` from the results.json files in this folder. -->"


def take_over(workdir: pathlib.Path, results: pathlib.Path = RESULTS) -> pathlib.Path:
    """Copies the accuracies of a work folder, how its models were trained, its settings, plots and model cards.

    Args:
      workdir: a work folder of tfadv whose report is up to date.
      results: the folder that the new folder, of the same name, is put into.

    Returns:
      The new folder.

    Raises:
      UserError: there are no results in the work folder.
    """
    if not (workdir / "results.json").is_file():
        raise UserError(f"{workdir} has no results.json: run tfadv with --stage=report first.")
    folder = results / workdir.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copy(workdir / "results.json", folder)
    shutil.copy(workdir / "flags.txt", folder)
    for report in filter(pathlib.Path.is_dir, (workdir / "report", workdir / "comparison")):
        for plot in sorted([*report.glob("accuracy_*.png"), *report.glob("defenses_*.png")]):
            shutil.copy(plot, folder)
        if (report / "model_cards").is_dir():
            shutil.copytree(report / "model_cards", folder / "model_cards", dirs_exist_ok=True)
    training = {}
    for path in sorted((workdir / "models").glob("*/*/history.json")):
        record, manifest = (json.loads((path.parent / n).read_text()) for n in ("history.json", "manifest.json"))
        name = f"{path.parent.parts[-2]}/{manifest['inputs']['recipe']}"
        training[name] = Training.from_files(record, manifest)
    evaluated = {
        f"{record['model']}/{record['variant']}" for record in json.loads((folder / "results.json").read_text())
    }
    kept = {name: dataclasses.asdict(_of_all_rounds(name, training)) for name in training if name in evaluated}
    (folder / "training.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    records = map(Record.from_dict, json.loads((folder / "results.json").read_text()))
    outcomes = {str(i): _outcomes(workdir, record) for i, record in enumerate(records)}
    packed = {name: np.packbits(correct) for name, correct in outcomes.items() if correct is not None}
    np.savez_compressed(folder / OUTCOMES, **packed)
    return folder


def _outcomes(workdir: pathlib.Path, record: Record) -> np.ndarray | None:
    """bool (n,), the images of a record that are classified correctly; None for the worst case over attacks.

    Raises:
      UserError: the files in the work folder are not those that the record was made from.
    """
    if record.attack == WORST_CASE:
        return None
    model, recipe = folder_name(record.model), folder_name(record.variant)
    if record.settings is None:
        prefix = "transfer_" if record.protocol == "transfer" else "whitebox_"
        result = load_result(workdir / "evaluations" / model / recipe, prefix)
    else:
        result = load_result(workdir / "attacks" / model / recipe / folder_name(record.attack_label))
    if record.eps is None:
        correct = result.clean_correct
    else:
        correct = result.robust[np.atleast_1d(result.eps).tolist().index(record.eps)]
    if (len(correct), int(correct.sum())) != (record.n, record.correct):
        raise UserError(f"{workdir} has other results of {model}/{recipe} than its results.json: run it again.")
    return correct


def _of_all_rounds(name: str, training: dict[str, Training]) -> Training:
    """How a model was trained, "model/recipe"; a round with the cost of all rounds before."""
    found = re.fullmatch(r"(.+\(round=)(\d+)\)", name)
    names = [f"{found[1]}{number})" for number in range(1, int(found[2]) + 1)] if found else [name]
    return with_earlier_rounds([training[name] for name in names])


def read(folder: pathlib.Path) -> ReportData:
    """The results in a folder that `take_over` wrote."""
    records = list(map(Record.from_dict, json.loads((folder / "results.json").read_text(encoding="utf-8"))))
    if (folder / OUTCOMES).is_file():
        with np.load(folder / OUTCOMES) as packed:
            for i, record in enumerate(records):
                if str(i) in packed:
                    correct = np.unpackbits(packed[str(i)], count=record.n).astype(bool)
                    records[i] = dataclasses.replace(record, per_image=correct)
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return ReportData(
        dataset=records[0].dataset,
        class_names=(),
        records=tuple(records),
        experiment=PAPER,
        training={name: Training(**fields) for name, fields in training.items()},
        provenance={"flags.txt": (folder / "flags.txt").read_text(encoding="utf-8")},
    )


def page(name: str, data: ReportData, plots: list[str]) -> str:
    """README.md of one folder: its tables, the paper's accuracies beside ours."""
    tables = report_tables(data)
    flags = "The flags are in [flags.txt](flags.txt): `tfadv --flagfile=flags.txt`."
    remarks = [REMARKS[name]] if name in REMARKS else []
    blocks = [NOTE, f"# {name}", flags, *remarks, *(table.markdown() for table in tables.values())]
    return "\n\n".join([*blocks, *(f"![{pathlib.Path(plot).stem.replace('_', ' ')}]({plot})" for plot in plots)]) + "\n"


def overview(runs: dict[str, ReportData]) -> str:
    """README.md of `results/`: the questions, each answered from the runs in all folders."""
    blocks = [NOTE, "# Results", INTRODUCTION]
    for question in QUESTIONS:
        blocks += [f"## {question.text}", question.answer(runs)]
    return "\n\n".join([*blocks, DIFFERENCES]) + "\n"


CHOSEN = """The settings of this run were chosen by accuracies on validation images and on the first 1,000 of these test
images, so its gains may be too high."""
REMARKS = {"cats_vs_dogs_rounds": CHOSEN, "cats_vs_dogs_rounds_ramp20": CHOSEN}

INTRODUCTION = """Accuracies on test images in %, with the 95% interval in brackets and the number of images n. *Gain*
is the accuracy of a recipe under white-box FGSM minus that of the baseline on the same images, averaged over networks
and eps, in percentage points. *Clean* beside a gain is the change of clean accuracy. Stronger attacks run on the first
n test images, FGSM on all.

The ends of the interval of a difference follow it (low, high). Where a folder has `correct.npz`, they compare the two
accuracies image by image (Newcombe 1998 for one pair of accuracies, a bootstrap over images for a mean). Elsewhere only
counts are left: these intervals treat the images as independent and are conservative, wider than paired ones where the
two models tend to err on the same images. An interval tells what other test images would change, not another seed.

The settings of `rounds` on cats_vs_dogs were chosen by accuracies on validation images and on the first 1,000 of these
test images, so its gains there (+28.5 in `cats_vs_dogs_rounds`) may be too high."""

DIFFERENCES = """## What differs from the paper

- Pixels are in [0, 1], and eps is in this unit. The paper does not give its unit.
- Input sizes are 32×32 pixels (cats_vs_dogs 64×64), unless flags.txt says otherwise. The paper does not give its own.
- The paper's accuracies of its retrained models may be those on the stored adversarial images of ResNet18. Gains here
  are those under a new attack on each model itself.
- The CIFAR-10 images had been JPEG-compressed once before use, and the cats_vs_dogs images resized to 96×96 pixels.
- Training has fewer epochs: see flags.txt in each folder, and the cost above."""


def write_pages(results: pathlib.Path = RESULTS) -> None:
    """Rewrites README.md in `results` and in each of its folders."""
    runs = {path.parent.name: read(path.parent) for path in sorted(results.glob("*/results.json"))}
    for name, data in runs.items():
        plots = [plot.name for plot in sorted((results / name).glob("*.png"))]
        (results / name / "README.md").write_text(page(name, data, plots), encoding="utf-8")
    (results / "README.md").write_text(overview(runs), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Takes over the work folders that are named, then rewrites all pages."""
    try:
        for workdir in arguments[1:]:
            print(take_over(pathlib.Path(workdir)))
    except UserError as error:
        raise SystemExit(str(error))
    write_pages()


if __name__ == "__main__":
    app.run(main)
