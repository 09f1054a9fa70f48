"""The folder `results/`, the page about it, and the table of README.md."""

import dataclasses
import json
import pathlib
import re

import pytest

from benchmarks import results
from tfadv.errors import UserError
from tfadv.evaluation.intervals import difference_of_counts
from tfadv.evaluation.records import Record, wilson_interval
from tfadv.report.data import Training

FOLDERS = sorted(path.parent for path in results.RESULTS.glob("*/results.json"))


@pytest.fixture(scope="module")
def runs():
    return list(map(results.read, FOLDERS))


def rows(text):
    """A dict from column to cell for each row of the tables in a text, with what the line before says of all rows."""
    for line, table in re.findall(r"(?:^All rows: ([^\n]+)\.\n\n)?^(\|.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE):
        same = dict(part.rsplit(" ", 1) for part in line.split("; ") if part)
        head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        yield from (same | dict(zip(head, line, strict=True)) for line in lines)


def test_the_page_and_the_table_of_readme_are_those_of_the_results(runs):
    """Otherwise: python -m benchmarks.results."""
    assert results.PAGE.read_text(encoding="utf-8") == results.page(runs)
    readme = results.README.read_text(encoding="utf-8")
    assert all(block in readme for block in results.readme_blocks(runs).values())


def test_a_recount_gives_the_accuracies_of_the_page():
    """From the numbers of correct images alone; Wilson's interval by its formula."""

    def text(correct, n):
        p, z = correct / n, 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        return f"{100 * p:.1f} ± {100 * (abs(p - middle) + half):.1f}"

    columns = {"clean": None, "FGSM": "fgsm", "PGD-20": "pgd", "AutoAttack": "autoattack"}
    shown = [row for row in rows(results.PAGE.read_text(encoding="utf-8")) if "defense" in row]
    assert all({*row} == {*results.HEAD} - {*results.NOT_ON_PAGE} for row in shown)
    assert len(shown) > 30 and {row["run"] for row in shown} >= {"paper_cifar10", "cifar10_compare", "quickstart"}
    for row in shown:
        records = json.loads((results.RESULTS / row["run"] / "results.json").read_text(encoding="utf-8"))
        model, defense = row["model"], row["defense"].strip("`")
        own = [r for r in records if (r["model"], r["defense"]) == (model, defense) and r["protocol"] != "transfer"]
        eps = max(r["eps"] for r in own if r["eps"])
        assert row["eps"] == f"{eps:.3g}"
        for column, attack in columns.items():
            found = [r for r in own if r["attack"] == attack and r["eps"] in (None, eps)]
            assert row[column] == (text(found[0]["correct"], found[0]["n"]) if found else "–"), (row, column)
            number = row["n" if attack in (None, "fgsm") else "n of PGD"]
            assert not found or number == f"{found[0]['n']:,}"


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
    for model, less in (("resnet18", 0), ("resnet50", 50)):
        for defense, (clean, attacked) in counts.items():
            records.append(record(model, defense, "clean", clean))
            for eps in results.EPSILONS:
                lost = less if defense == "retrained" else 0
                records.append(record(model, defense, "whitebox", attacked - lost, eps))
                records.append(record(model, defense, "transfer", 999, eps, source="resnet18/baseline"))
                for steps in (10, 20):
                    more = {"attack": "pgd", "settings": {"steps": steps}}
                    records.append(record(model, defense, "whitebox", 10 * steps, eps, n=500, **more))
    training = {"resnet18/baseline": Training(12_345, 90.0)}
    return results.Run("some_run", tuple(records), training, {"train_size": "5000"})


def test_a_row_has_the_figures_of_its_records(run):
    row = dict(zip(results.HEAD, results.row(run, "resnet18", "baseline"), strict=True))
    assert (row["run"], row["defense"], row["eps"]) == ("some_run", "`baseline`", "0.03")
    assert row["clean"].split()[0] == "80.0" and row["FGSM"] == "10.0 ± 2.0" and row["PGD-20"].split()[0] == "40.0"
    assert (row["AutoAttack"], row["n"], row["n of PGD"]) == ("–", "1,000", "500")
    assert (row["gradients, 1000s"], row["minutes"]) == ("12", "1.5")
    assert results.row(run, "resnet50", "baseline")[-2:] == ("–", "–")


def test_the_gains_of_the_papers_method(run):
    (row,) = rows(results.paper_table([run]))
    assert (row["data set"], row["eps"], row["n"], row["paper"]) == ("CIFAR-10", "0.01 to 0.03", "1,000", "+15.0")
    value, low, high = difference_of_counts(200, 100, 1000).points  # only counts are known
    assert row["method"] == f"{value:+.1f} ± {max(value - low, high - value):.1f}"
    assert row["control"].startswith("+5.0 ± ") and row["method, other networks"].startswith("+5.0 ± ")
    other = [dataclasses.replace(r, eps=10 * r.eps) if r.eps else r for r in run.records]
    (row,) = rows(results.paper_table([dataclasses.replace(run, records=tuple(other))]))
    assert row["paper"] == "–"  # which states a gain for its own eps


def test_of_several_rounds_the_last_is_shown(run):
    more = [record("resnet18", f"rounds(round={number})", "clean", 5) for number in (4, 8)]
    more += [record("resnet18", f"rounds(number=9, round={number}, size=50)", "clean", 5) for number in (8, 9)]
    run = dataclasses.replace(run, records=(*run.records, *more, record("resnet18", "nfgsm", "clean", 5)))
    shown = ["rounds(round=8)", "rounds(number=9, round=9, size=50)", "nfgsm"]
    assert results.shown_defenses(run) == ["baseline", "augmented", "retrained", *shown]


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
    files = {"results.json", "training.json", "correct.npz", "flags.txt", shown.name}
    assert {path.name for path in folder.iterdir()} == files  # only the plot that was there
    assert shown.read_bytes() == (smoke.workdir / "report" / shown.name).read_bytes()
    row = results.row(run, "resnet_tiny", "augmented")
    assert row[0] == folder.name and row[8] == "360"


def test_the_cost_of_a_round_includes_the_rounds_before():
    training = {f"resnet18/rounds(round={n})": Training(gradients=n, seconds=10.0 * n) for n in range(1, 12)}
    training["resnet50/rounds(round=1)"] = Training(gradients=1000, seconds=1000.0)
    training["resnet18/nfgsm(share=0.5)"] = Training(gradients=5, seconds=6.0)
    total = results._of_all_rounds("resnet18/rounds(round=11)", training)
    assert (total.gradients, total.seconds) == (66, 660.0)
    named = {f"resnet18/rounds(number=3, round={n}, size=50)": Training(gradients=n, seconds=1.0) for n in (1, 2, 3)}
    assert results._of_all_rounds("resnet18/rounds(number=3, round=3, size=50)", named).gradients == 6
    other = training["resnet18/nfgsm(share=0.5)"]
    assert results._of_all_rounds("resnet18/nfgsm(share=0.5)", training) == other


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
