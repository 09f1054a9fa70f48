"""The folder `results/`, the page about it, and the table of README.md."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import scipy.stats

from benchmarks import results
from tfadv.errors import UserError
from tfadv.evaluation.intervals import difference_of_counts
from tfadv.evaluation.records import Record, wilson_interval
from tfadv.report import leaderboard

FOLDERS = sorted(path.parent for path in results.RESULTS.glob("*/results.json"))


@pytest.fixture(scope="module")
def runs():
    return list(map(results.read, FOLDERS))


def rows(text):
    """A dict from column to cell for each row of the tables in a text."""
    for table in re.findall(r"^(\|.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE):
        head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        yield from (dict(zip(head, line, strict=True)) for line in lines)


def test_the_page_and_the_table_of_readme_are_those_of_the_results(runs):
    """Otherwise: python -m benchmarks.results."""
    assert results.PAGE.read_text(encoding="utf-8") == results.page(runs)
    readme = results.README.read_text(encoding="utf-8")
    assert all(block in readme for block in results.readme_blocks(runs).values())


def test_a_recount_gives_the_certified_accuracies_of_the_page():
    """From the files alone: the copies that must agree are counted by Clopper and Pearson's bound."""
    (row,) = [row for row in rows(results.PAGE.read_text(encoding="utf-8")) if row.get("attack") == "certified"]
    radius = float(row["threat"].split()[-1])
    folder = results.RESULTS / "threats_cats_vs_dogs/certificates/resnet18"
    for defense, start in (("baseline", "baseline"), ("gaussian(epochs=8, sigma=0.12)", "gaussian")):
        (path,) = folder.glob(f"{start}*/certificate.npz")
        with np.load(path) as file:
            right, agree, copies = file["selected"] == file["labels"], file["counts"][:, 1], int(file["n"])
            p = scipy.stats.beta.ppf(float(file["alpha"]), np.maximum(agree, 1), copies - agree + 1)
            share = (right & (float(file["sigma"]) * scipy.stats.norm.ppf(p) >= radius)).mean()
        assert row[defense].startswith(f"{100 * share:.1f} [") and 0.4 < share < 0.7


def test_a_recount_gives_the_accuracies_of_the_page():
    """From the numbers of correct images alone; Wilson's interval by its formula."""

    def text(correct, n):
        p, z = correct / n, 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        return f"{100 * p:.1f} ± {100 * (abs(p - middle) + half):.1f}"

    attacks = {"clean": (None,), "FGSM": ("fgsm",), "PGD-20": ("pgd",), "AutoAttack": ("autoattack",)}
    norms = {"L∞": "linf", "L2": "l2", "L1": "l1"}
    shown = [row for row in rows(results.PAGE.read_text(encoding="utf-8")) if "place" in row]
    assert all({*row} == {*leaderboard.HEAD} - {results.NOT_ON_PAGE} for row in shown)
    models = set()
    for row in shown:
        name, link = re.fullmatch(r"\[(\w+)\]\((.*)\)", row["run"]).groups()
        records = json.loads((results.PAGE.parent / link).read_text(encoding="utf-8"))
        model, defense, (norm, size) = row["network"], row["defense"].strip("`"), row["eps"].split()
        models.add((name, model, re.sub(r"round=\d+", "", defense)))
        own = [r for r in records if (r["model"], r["defense"]) == (model, defense) and r["protocol"] != "transfer"]
        in_norm = [r for r in own if r["eps"] and (r["settings"] or {}).get("norm", "linf") == norms[norm]]
        eps = max(r["eps"] for r in in_norm)
        assert size == f"{eps:.3g}"
        largest = [r for r in in_norm if r["eps"] == eps and r["attack"] != "worst"]
        for column, (attack,) in attacks.items():
            found = [r for r in largest if r["attack"] == attack] if attack else [r for r in own if not r["attack"]]
            assert row[column] == (text(found[0]["correct"], found[0]["n"]) if found else "–"), (row, column)
        several = [r for r in largest if r["attack"] != "fgsm"]
        assert (row["strongest attack"] == "FGSM only") == (not several)
        assert (row["place"] == "–") == (not several or own[0]["accuracy"] < 0.55)
    expected = {
        (folder.name, r["model"], re.sub(r"round=\d+", "", r["defense"]))
        for folder in FOLDERS
        for r in json.loads((folder / "results.json").read_text(encoding="utf-8"))
    }
    assert models == expected and len(models) > 100


def test_the_figures_of_the_page_about_the_paper_are_those_of_the_results(runs):
    text = " ".join((results.ROOT / "docs/paper.md").read_text(encoding="utf-8").split())
    accuracies = {leaderboard.percent(each) for run in runs for each in run.records}
    gains = set(re.findall(r"\d+\.\d ± \d+\.\d", results.paper_table(runs)))
    shown = re.findall(r"\d+\.\d ± \d+\.\d", text)
    assert len(shown) > 10 and set(shown) <= accuracies | gains


def record(model, defense, protocol, correct, eps=None, n=1000, **fields):
    values = {"source": None, "attack": None if eps is None else "fgsm", "settings": None, "cost": None, "seed": 0}
    return Record(
        "cifar10", model, defense, protocol, eps=eps, n=n, correct=correct, accuracy=correct / n,
        interval=wilson_interval(correct, n), **{**values, **fields},
    )  # fmt: skip


@pytest.fixture
def run():
    """ResNet18 and ResNet50 at the paper's eps; ResNet18 also under PGD."""
    counts = {"baseline": (800, 100), "augmented": (820, 150), "retrained": (790, 200), "rounds(round=2)": (700, 300)}
    records = []
    for model, less in (("resnet18", {}), ("resnet50", {"baseline": 30, "retrained": 50})):
        for defense, (clean, attacked) in counts.items():
            records.append(record(model, defense, "clean", clean))
            for eps in results.EPSILONS:
                records.append(record(model, defense, "whitebox", attacked - less.get(defense, 0), eps))
                records.append(record(model, defense, "transfer", 999, eps, source="resnet18/baseline"))
                for steps in (10, 20):
                    more = {"attack": "pgd", "settings": {"steps": steps}}
                    records.append(record(model, defense, "whitebox", 10 * steps, eps, n=500, **more))
    return results.Run("some_run", tuple(records), {}, {})


def test_the_gains_of_the_papers_method(run):
    (row,) = rows(results.paper_table([run]))
    assert (row["data set"], row["eps"], row["n"], row["paper"]) == ("CIFAR-10", "0.01 to 0.03", "1,000", "+15.0")
    value, low, high = difference_of_counts(200, 100, 1000).points  # only counts are known
    assert row["method"] == f"{value:+.1f} ± {max(value - low, high - value):.1f}"
    value, low, high = difference_of_counts(200, 150, 1000).points
    assert row["method less control"] == f"{value:+.1f} ± {max(value - low, high - value):.1f}"
    assert row["size"].startswith("-3.0 ± ")
    assert row["control"].startswith("+5.0 ± ") and row["method, other networks"].startswith("+8.0 ± ")
    other = [dataclasses.replace(r, eps=10 * r.eps) if r.eps else r for r in run.records]
    (row,) = rows(results.paper_table([dataclasses.replace(run, records=tuple(other))]))
    assert row["paper"] == "–"  # which states a gain for its own eps


def test_a_readme_without_a_place_for_the_table(runs, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# tfadv\n<!-- results: begin -->\n")
    with pytest.raises(UserError, match="README.md has no <!-- results: begin -->"):
        results.write(runs, tmp_path / "results.md", readme)
    assert readme.read_text() == "# tfadv\n<!-- results: begin -->\n"


# === Results of a work folder ===


def test_results_of_a_run_are_taken_over(smoke, tmp_path):
    shown = tmp_path / smoke.workdir.name / "accuracy_resnet_tiny.png"
    shown.parent.mkdir()
    shown.write_text("an old plot")
    folder = results.take_over(smoke.workdir, tmp_path)
    run = results.read(folder)
    assert [r.to_dict() for r in run.records] == smoke.records()
    for each in run.records:  # which images are correct is taken over too
        assert each.per_image.shape == (each.n,) and each.per_image.sum() == each.correct
    assert run.gain("retrained", run.models).paired
    history = json.loads((smoke.workdir / "models/resnet_tiny/baseline/history.json").read_text())
    assert run.training["resnet_tiny/baseline"].gradients == history["gradients"] > 0
    files = {"results.json", "training.json", "checks.json", "correct.npz", "flags.txt", shown.name}
    assert {path.name for path in folder.iterdir()} == files  # only the plot that was there
    assert shown.read_bytes() == (smoke.workdir / "report" / shown.name).read_bytes()
    line = run.line("resnet_tiny", "augmented")
    assert (line.run.name, line.clean.n) == (folder.name, 360)


def test_results_that_are_not_those_of_the_work_folder_are_not_taken_over(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    path = run.workdir / "results.json"
    path.write_text(re.sub(r'"correct": \d+', '"correct": 3', path.read_text(), count=1))
    with pytest.raises(UserError, match="has other results of resnet_tiny/baseline than its results.json"):
        results.take_over(run.workdir, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_results_stay_where_there_are_none_to_take_over(tmp_path):
    (tmp_path / "results/run").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run has no results.json: run tfadv"):
        results.take_over(tmp_path / "run", tmp_path / "results")
    assert (tmp_path / "results/run").is_dir()


def test_readme_and_docs_show_every_plot_in_results():
    root = pathlib.Path(results.ROOT)
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "README.md", *root.glob("docs/*.md")))
    plots = [path.relative_to(root).as_posix() for path in results.RESULTS.glob("*/*.png")]
    assert plots and all(plot in text for plot in plots)


def test_each_figure_of_the_papers_tables_has_ours_beside_it(runs):
    """Table 1 has 18, and Tables 2 to 4 have 27 each."""
    head, found = results.cells(runs)
    ours, papers = found[::2], found[1::2]
    figures = [cell for row in papers for cell in row[4:8] if cell != "–"]
    assert len(figures) == 18 + 3 * 27 and len({row[:3] for row in ours}) == len(ours) == 27
    assert {row[-1] for row in papers} == {"the paper"} and "52.3" in figures and "66.8" in figures
    pattern = re.compile(r"\d+\.\d ± \d+\.\d")
    assert all(pattern.fullmatch(cell) for row in ours for cell in row[4:8]) and all(row[3] != "–" for row in ours)
