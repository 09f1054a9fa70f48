"""The tables of docs/results.md about runs in results/ have the figures of their results.json."""

import fractions
import json
import pathlib
import re

import numpy as np
import pytest

from benchmarks.results import read
from tfadv.experiments.paper import ROWS, STATED_GAINS
from tfadv.report.differences import mean_gain

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs/results.md").read_text(encoding="utf-8")
# The folder is named before its table.
TABLES = re.findall(r"records\s+are\s+in\s+`results/(\w+)/`\.\n\n(\|.+?)\n\n", TEXT, re.DOTALL)

ATTACKS = {"FGSM": "fgsm", "PGD-20": "pgd", "AutoAttack": "autoattack"}


def rows(table):
    """A dict from column to cell for each row."""
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def percent(values):
    return " / ".join(f"{100 * value:.1f}" for value in values)


def test_there_are_such_tables():
    assert {folder for folder, _ in TABLES} == {
        "cifar10_rounds",
        "cifar10_compare",
        "cifar10_nfgsm_gpu",
        "cats_vs_dogs_gpu",
        "cats_vs_dogs_rounds",
        "cats_vs_dogs_rounds_ramp20",
        "mnist_rounds",
        "mnist_resize_pgd",
    }


@pytest.mark.parametrize("folder, table", TABLES, ids=[folder for folder, _ in TABLES])
def test_a_table_has_the_figures_of_results_json(folder, table):
    records = json.loads((ROOT / "results" / folder / "results.json").read_text(encoding="utf-8"))

    def accuracies(recipe, protocol, attack=None):
        found = [r for r in records if (r["variant"], r["protocol"], r["attack"]) == (recipe, protocol, attack)]
        return [r["accuracy"] for r in sorted(found, key=lambda r: r["eps"] or 0)]

    baseline = accuracies("baseline", "whitebox", "fgsm")
    assert len(rows(table)) == len({r["variant"] for r in records})
    for row in rows(table):
        recipe = re.sub(r"^rounds, round (\d+)$", r"rounds(round=\1)", row["recipe"])
        fgsm = accuracies(recipe, "whitebox", "fgsm")
        assert row["clean"] == percent(accuracies(recipe, "clean"))
        attack, eps = "fgsm", 0
        for column, cell in row.items():
            name, *levels = column.split()
            if name in ATTACKS:
                attack, eps = ATTACKS[name], float(fractions.Fraction(levels[-1]))
                assert cell == percent(accuracies(recipe, "whitebox", attack)), column
        assert {"FGSM", "PGD-20"} <= {column.split()[0] for column in row}
        (stored,) = (cell for column, cell in row.items() if column.startswith("stored images, eps"))
        assert stored == percent(accuracies(recipe, "transfer", "fgsm")[-1:])
        *_, strongest = sorted(  # the last attack of the table, at the greatest eps
            (r for r in records if (r["variant"], r["protocol"], r["attack"]) == (recipe, "whitebox", attack)),
            key=lambda r: r["eps"],
        )
        assert strongest["eps"] == pytest.approx(eps, abs=1e-6)
        (interval,) = (cell for column, cell in row.items() if column.startswith("interval"))
        assert interval == "–".join(f"{100 * limit:.1f}" for limit in strongest["interval"])
        if recipe != "baseline":
            gain = 100 * sum(a - b for a, b in zip(fgsm, baseline, strict=True)) / len(fgsm)
            assert row["mean FGSM Δ"].replace("−", "-") == f"{gain:+.1f}"


README = (ROOT / "README.md").read_text(encoding="utf-8")
# Cells of a grid: clean accuracy; accuracy under FGSM at each eps.
GRIDS = [
    ("paper_cifar10", README, (0.01, 0.02, 0.03)),
    ("paper_cifar10_gpu", TEXT, (0.01, 0.02, 0.03)),
    ("paper_mnist_strong_gpu", TEXT, (0.1, 0.2, 0.3)),
    ("paper_mnist_strong", TEXT, (0.1, 0.2, 0.3)),
    ("mnist_resize", TEXT, (0.1, 0.2, 0.3)),
    ("paper_mnist", TEXT, (0.01, 0.02, 0.03)),
    ("paper_cats_vs_dogs_gpu", TEXT, (0.01, 0.02, 0.03)),
    ("paper_cats_vs_dogs", TEXT, (0.01, 0.02, 0.03)),
]


class Grid:
    """The results of a run on several models and recipes."""

    def __init__(self, folder, eps):
        self.records = json.loads((ROOT / "results" / folder / "results.json").read_text(encoding="utf-8"))
        self.eps = eps

    def accuracies(self, model, recipe):
        """From (protocol, eps) to the accuracy, clean and under FGSM; empty where the model was not trained so."""
        own = [
            r for r in self.records if (r["model"], r["variant"]) == (model, recipe) and r["attack"] in (None, "fgsm")
        ]
        return {(r["protocol"], r["eps"]): r["accuracy"] for r in own}

    def fgsm(self, model, recipe):
        return np.array([self.accuracies(model, recipe)["whitebox", eps] for eps in self.eps])


@pytest.mark.parametrize("folder, text, eps", GRIDS, ids=[folder for folder, *_ in GRIDS])
def test_the_table_of_a_grid_has_the_figures_of_results_json(folder, text, eps):
    grid = Grid(folder, eps)
    corner = f"clean; FGSM {' / '.join(map(str, eps))}"
    tables = re.findall(rf"^(\| {re.escape(corner)} \|.+?)\n\n", text, re.DOTALL | re.MULTILINE)
    same = [name for name, *rest in GRIDS if rest == [text, eps]]  # in the order of the text
    assert len(tables) == len(same)
    table = tables[same.index(folder)]
    shown = set()
    for row in rows(table):
        (recipe,) = re.findall(r"^`(.+?)`", row.pop(corner))
        for model, cell in row.items():
            found = grid.accuracies(model.lower(), recipe)
            if cell == "–":
                assert not found
            else:
                assert cell == f"{percent([found['clean', None]])}; {percent(grid.fgsm(model.lower(), recipe))}"
                shown.add((model.lower(), recipe))
    assert shown == {(r["model"], r["variant"]) for r in grid.records}


def test_the_summary_has_the_figures_of_results_json():
    (table,) = re.findall(r"^(\| data set, eps \|.+?)\n\n", TEXT, re.DOTALL | re.MULTILINE)
    assert len(rows(table)) > 5
    for row in rows(table):
        _, *levels = row["data set, eps"].split(", ")
        grid = Grid(row["run"], [float(eps) for eps in (levels or ["0.01 / 0.02 / 0.03"])[0].split(" / ")])
        (recipe,) = re.findall(r"^`(.+?)`", row["method"])
        clean = [grid.accuracies("resnet18", name)["clean", None] for name in ("baseline", recipe)]
        gain = 100 * (grid.fgsm("resnet18", recipe) - grid.fgsm("resnet18", "baseline")).mean()
        stated = f"{STATED_GAINS[ROWS[grid.records[0]['dataset']]]:+.2f}" if recipe == "retrained" else ""
        assert row["clean: baseline, then"] == ", ".join(percent([value]) for value in clean)
        assert (row["mean FGSM Δ"], row["stated"]) == (f"{gain:+.1f}", stated)


def test_the_table_of_seeds_has_the_figures_of_results_json():
    (table,) = re.findall(r"^(\| seed \|.+?)\n\n", TEXT, re.DOTALL | re.MULTILINE)
    folders = {"0": "paper_cifar10", "1": "paper_cifar10_seed1", "2": "paper_cifar10_seed2"}
    assert [row["seed"] for row in rows(table)] == list(folders)
    for row in rows(table):
        grid = Grid(folders[row.pop("seed")], (0.01, 0.02, 0.03))
        for recipe in ("baseline", "augmented", "retrained"):
            clean = percent([grid.accuracies("resnet18", recipe)["clean", None]])
            assert row[f"`{recipe}`"] == f"{clean}; {percent(grid.fgsm('resnet18', recipe))}"
            if recipe != "baseline":
                gain = 100 * (grid.fgsm("resnet18", recipe) - grid.fgsm("resnet18", "baseline")).mean()
                assert row[f"mean FGSM Δ of `{recipe}`"] == f"{gain:+.1f}"


def test_the_gains_in_the_readme_follow_from_results_json():
    grid = Grid("paper_cifar10", (0.01, 0.02, 0.03))

    def gain(model, recipe):
        return 100 * (grid.fgsm(model, recipe) - grid.fgsm(model, "baseline")).mean()

    models = "resnet18", "resnet50", "resnet101"
    text = " ".join(README.split())
    stated = re.search(
        r"gains ([\d.]+) points for ResNet18, .+? and ([\d.]+) and ([\d.]+) for the other two\. The average of the "
        r"three is ([\d.]+); .+? The control gains ([\d.]+)\. .+? ResNet50 gains ([\d.]+)\.",
        text,
    )
    retrained, control = ([gain(model, recipe) for model in models] for recipe in ("retrained", "augmented"))
    expected = [*retrained, np.mean(retrained), np.mean(control), gain("resnet50", "rounds(round=1)")]
    assert list(stated.groups()) == [f"{value:.1f}" for value in expected]
    seeds = [gain_of_seed(folder) for folder in ("paper_cifar10_seed1", "paper_cifar10_seed2")]
    assert f"two other seeds, ResNet18 gains {seeds[0]:.1f} and {seeds[1]:.1f}." in text
    data = read(ROOT / "results/paper_cifar10")
    found = [mean_gain(data, "retrained", models=[model]) for model in models]
    found += [mean_gain(data, recipe) for recipe in ("retrained", "augmented")]
    found.append(mean_gain(data, "rounds(round=1)", models=["resnet50"]))
    assert max(max(g.points[2] - g.points[0], g.points[0] - g.points[1]) for g in found) <= 1.0
    assert "may change each of these gains by ± 1.0 points" in text


def gain_of_seed(folder):
    grid = Grid(folder, (0.01, 0.02, 0.03))
    return 100 * (grid.fgsm("resnet18", "retrained") - grid.fgsm("resnet18", "baseline")).mean()


def test_the_table_of_defenses_in_the_readme_has_the_figures_of_results_json():
    (table,) = re.findall(r"^(\| ResNet18 on CIFAR-10, one budget.+?)\n\n", README, re.DOTALL | re.MULTILINE)
    records = json.loads((ROOT / "results/cifar10_compare/results.json").read_text(encoding="utf-8"))
    for row in rows(table):
        recipe, *cells = row.values()
        own = [r for r in records if r["variant"] == recipe.split(": ")[0] and r["protocol"] != "transfer"]
        shown = [r["accuracy"] for r in own if r["attack"] in (None, "fgsm", "pgd") and r["eps"] in (None, 0.03)]
        assert cells == [percent([value]) for value in shown]
    assert {r["n"] for r in records if r["attack"] == "pgd"} == {2000} and "first 2,000 images" in table


def test_the_figures_of_the_gpu_run_in_the_readme_are_those_of_results_json():
    found = json.loads((ROOT / "results/cifar10_nfgsm_gpu/results.json").read_text(encoding="utf-8"))
    accuracy = {
        (r["variant"], r["attack"]): f"{100 * r['accuracy']:.1f}%" for r in found if r["protocol"] != "transfer"
    }
    text = " ".join(README.split())
    robust, *others = (accuracy[recipe, "autoattack"] for recipe in ("nfgsm", "baseline", "control"))
    assert f"classifies {robust} of 1,000 test images correctly, the baseline and the control {others[0]}." in text
    clean = [accuracy[recipe, None] for recipe in ("nfgsm", "baseline", "control")]
    assert "On clean images it reaches {}, the baseline {} and the control {}.".format(*clean) in text
    assert others[0] == others[1]
