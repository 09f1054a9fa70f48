"""The folder `results/` and the pages about it."""

import dataclasses
import json
import pathlib
import re
import shutil

import pytest

from benchmarks import results
from benchmarks.answers import QUESTIONS, carries_over, costs, helps, larger, remains
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


def test_the_answers_are_those_of_the_records(data):
    text = helps(data)
    # (5 + 1) / 2 and (10 + 3) / 2 points; clean (2 + 1) / 2 and (-1 + 2) / 2
    assert "n = 1,000: augmented +3.0 ±" in text and "clean +1.5; retrained +6.5 ±" in text and "clean +0.5." in text
    assert "gains 3.5 points more than its control" in text and "states +14.96 at eps 0.01, 0.02 and 0.03" in text
    half = 196 * ((0.1 * 0.9 + 0.2 * 0.8) / 1000) ** 0.5, 196 * ((0.05 * 0.95 + 0.08 * 0.92) / 1000) ** 0.5
    assert f"retrained +6.5 ± {sum(half) / 2:.1f} points" in text
    # 100 of 1,000 images under FGSM, 50 under PGD: the gain of 10 points becomes one of 5.
    assert "resnet18 under pgd at eps 0.03, n = 1,000: baseline 5.0 [" in remains(data)
    assert re.search(r"retrained 10.0 \[[^]]*\] \(50% of the FGSM gain\)", remains(data))
    assert re.search(r"resnet50 from 30.0 .* to 65.0 .* stored images, from 5.0 .* to 8.0 .* new", carries_over(data))
    assert re.search(r"resnet18 10.0 \[.*\] \(clean 80.0 .*resnet50 5.0 \[.*\] \(clean 70.0", larger(data))
    assert costs(data).endswith("resnet18: baseline 12,345 in 1.5 min.")


def test_a_run_that_does_not_tell_has_no_answer(data):
    only = [r for r in data.records if (r.model, r.variant) == ("resnet18", "baseline") and r.settings is None]
    alone = dataclasses.replace(data, records=tuple(only), training={})
    assert [answer(alone) for answer in QUESTIONS.values()] == [""] * len(QUESTIONS)


def test_results_of_a_run_are_taken_over(smoke, tmp_path):
    folder = results.take_over(smoke.workdir, tmp_path)
    results.write_pages(tmp_path)
    data = results.read(folder)
    assert [r.to_dict() for r in data.records] == smoke.records()
    page, overview = ((path / "README.md").read_text(encoding="utf-8") for path in (folder, tmp_path))
    for each in data.records:
        assert f"{100 * each.accuracy:.2f}" in page
    assert "accuracy_resnet_tiny.png" in page and (folder / "accuracy_resnet_tiny.png").exists()
    assert f"[{folder.name}]({folder.name}/README.md): gain at eps 0.01, 0.02, 0.03, n = 360" in overview
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
