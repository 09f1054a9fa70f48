"""The folder `results/` and the pages about it."""

import dataclasses
import json
import pathlib
import re
import shutil

import pytest

from benchmarks import results
from benchmarks.answers import QUESTIONS, baselines, carry_over, costs, gains, remaining
from tfadv.errors import UserError
from tfadv.evaluation.records import Record, wilson_interval
from tfadv.experiments.paper import PAPER
from tfadv.report.data import ReportData, Training

ROOT = pathlib.Path(__file__).parents[2]


def record(model, recipe, protocol="clean", correct=800, eps=None, **fields):
    """A record of 1,000 images."""
    values = {"source": None, "attack": None if eps is None else "fgsm", "settings": None, "cost": None, "seed": 0}
    return Record(
        "cifar10", model, recipe, protocol, eps=eps, n=1000, correct=correct, accuracy=correct / 1000,
        interval=wilson_interval(correct, 1000), **{**values, **fields},
    )  # fmt: skip


@pytest.fixture
def data():
    """ResNet18 and ResNet50 at one eps; ResNet18 also under PGD."""
    counts = {
        ("resnet18", "baseline"): (800, 100, 100),
        ("resnet18", "augmented"): (820, 150, 200),
        ("resnet18", "retrained"): (790, 200, 600),
        ("resnet50", "baseline"): (700, 50, 300),
        ("resnet50", "augmented"): (710, 60, 350),
        ("resnet50", "retrained"): (720, 80, 650),
    }
    records = []
    for (model, recipe), (clean, new, stored) in counts.items():
        records.append(record(model, recipe, "clean", clean))
        records.append(record(model, recipe, "whitebox", new, 0.03))
        records.append(record(model, recipe, "transfer", stored, 0.03, source="resnet18/baseline"))
        if model == "resnet18":
            records.append(record(model, recipe, "whitebox", new // 2, 0.03, attack="pgd", settings={"steps": 20}))
    training = {"resnet18/baseline": Training(12_345, 90.0)}
    return ReportData("cifar10", (), tuple(records), PAPER, training=training)


def test_the_rows_of_the_answers_are_those_of_the_records(data):
    control, ours = gains(data)
    # (5 + 1) / 2 and (10 + 3) / 2 points; clean (2 + 1) / 2 and (-1 + 2) / 2
    assert control[:4] == ("augmented", "resnet18, resnet50", "0.03", "1,000") and control[5:] == ("+1.5", "–")
    assert control[4].startswith("+3.0 ± ") and ours[5:] == ("+0.5", "+14.96")
    half = 196 * ((0.1 * 0.9 + 0.2 * 0.8) / 1000) ** 0.5, 196 * ((0.05 * 0.95 + 0.08 * 0.92) / 1000) ** 0.5
    assert ours[4] == f"+6.5 ± {sum(half) / 2:.1f}"
    # 100 of 1,000 images under FGSM, 50 under PGD: the gain of 10 points becomes one of 5.
    rows = {row[0]: row for row in remaining(data)}
    assert rows["baseline"][1:5] == ("resnet18", "pgd", "0.03", "1,000") and rows["baseline"][6] == "–"
    assert rows["augmented"][6] == "–"  # the gain under FGSM is 5 points
    assert rows["retrained"][5].startswith("10.0 [") and rows["retrained"][6] == "50%"
    own, other = carry_over(data)
    assert own[0] == "resnet18, the surrogate" and other[:3] == ("resnet50", "0.03", "1,000")
    assert [cell.split()[0] for cell in other[3:]] == ["30.0", "65.0", "5.0", "8.0"]
    assert [(row[0], row[2].split()[0], row[4].split()[0]) for row in baselines(data)] == [
        ("resnet18", "80.0", "10.0"),
        ("resnet50", "70.0", "5.0"),
    ]
    assert costs(data) == [("baseline", "resnet18", "12,345", "1.5")]


def swapped(data, pairs):
    """The same with the accuracies of recipes exchanged."""
    names = {**pairs, **{new: old for old, new in pairs.items()}}
    records = [dataclasses.replace(r, variant=names.get(r.variant, r.variant)) for r in data.records]
    return dataclasses.replace(data, records=tuple(records))


def test_the_conclusions_sum_up_all_runs(data):
    better, worse = data, swapped(data, {"augmented": "retrained"})
    reordered = dataclasses.replace(data, records=tuple(sorted(data.records, key=lambda r: r.model, reverse=True)))
    runs = [better, worse, reordered]
    control, remains, others, larger, cost = (question.conclusion(runs) for question in QUESTIONS)
    assert "In 2 of the 3 runs with both" in control and control.endswith(
        "3.5 points more. In the other 1, it gains 3.5 points less."
    )
    assert "was run: `retrained` on cifar10 50%; `augmented` on cifar10 50%. Models" in remains
    # resnet50: from 30 to 65 and 35% on stored images, from 5 to 8 and 6% under a new attack
    assert others.startswith("For resnet50, retraining") and "stored images by +5.0 to +35.0 points" in others
    assert others.endswith("new FGSM attack by +1.0 to +3.0 points. They rise in 3 and 3 of 3 cases.")
    assert larger.startswith("In 1 of the 3 runs with several networks") and "and in 2 less accurate" in larger
    assert cost == ""


def changed(data, recipe, protocol, correct):
    """The same with other accuracies of a recipe, on all models."""
    records = [
        record(r.model, r.variant, protocol, correct, r.eps, source=r.source, attack=r.attack, settings=r.settings)
        if (r.variant, r.protocol) == (recipe, protocol)
        else r
        for r in data.records
    ]
    return dataclasses.replace(data, records=tuple(records))


def test_the_conclusions_name_losses(data):
    control, remains, others, *_ = (question.conclusion for question in QUESTIONS)
    losing = changed(data, "retrained", "whitebox", 0)
    assert control([data, losing]).endswith(" In 1 of the 2, it is less accurate under FGSM than the baseline.")
    assert "new FGSM attack by -5.0 to +3.0 points. They rise in 2 and 1 of 2 cases." in others([data, losing])
    guessing = changed(data, "retrained", "clean", 100)  # its gain means nothing
    assert remains([data]) and remains([guessing]) == ""


def test_a_run_that_does_not_tell_has_no_answer(data):
    only = [r for r in data.records if (r.model, r.variant) == ("resnet18", "baseline") and r.settings is None]
    alone = dataclasses.replace(data, records=tuple(only), training={})
    assert [question.answer({"alone": alone}) for question in QUESTIONS] == ["No results yet."] * len(QUESTIONS)
    assert [question.conclusion([alone]) for question in QUESTIONS] == [""] * len(QUESTIONS)


def test_results_of_a_run_are_taken_over(smoke, tmp_path):
    folder = results.take_over(smoke.workdir, tmp_path)
    results.write_pages(tmp_path)
    data = results.read(folder)
    assert [r.to_dict() for r in data.records] == smoke.records()
    page, overview = ((path / "README.md").read_text(encoding="utf-8") for path in (folder, tmp_path))
    for each in data.records:
        assert f"{100 * each.accuracy:.2f}" in page
    assert "accuracy_resnet_tiny.png" in page and (folder / "accuracy_resnet_tiny.png").exists()
    (row,) = re.findall(rf"^\| \[{folder.name}\]\({folder.name}/README.md\) +\| augmented .*", overview, re.MULTILINE)
    assert re.search(r"\| resnet_tiny +\| 0.01, 0.02, 0.03 \| 360 \|", row)
    history = json.loads((smoke.workdir / "models/resnet_tiny/baseline/history.json").read_text())
    assert data.training["resnet_tiny/baseline"].gradients == history["gradients"] > 0
    assert (folder / "model_cards/resnet_tiny_baseline.md").exists()


def test_the_cost_of_a_round_includes_the_rounds_before():
    training = {f"resnet18/rounds(round={n})": Training(gradients=n, seconds=10.0 * n) for n in range(1, 12)}
    training["resnet50/rounds(round=1)"] = Training(gradients=1000, seconds=1000.0)
    training["resnet18/nfgsm(share=0.5)"] = Training(gradients=5, seconds=6.0)
    total = results._of_all_rounds("resnet18/rounds(round=11)", training)
    assert (total.gradients, total.seconds) == (66, 660.0)
    other = training["resnet18/nfgsm(share=0.5)"]
    assert results._of_all_rounds("resnet18/nfgsm(share=0.5)", training) == other


def test_results_stay_where_there_are_none_to_take_over(tmp_path):
    (tmp_path / "results/run").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run has no results.json: run tfadv"):
        results.take_over(tmp_path / "run", tmp_path / "results")
    assert (tmp_path / "results/run").is_dir()


def test_the_committed_pages_are_those_of_the_committed_results(tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    results.write_pages(copy)
    for path in copy.rglob("*.md"):
        assert path.read_bytes() == (ROOT / "results" / path.relative_to(copy)).read_bytes(), path
