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
from tfadv.evaluation.intervals import difference_of_counts
from tfadv.evaluation.records import Record, wilson_interval
from tfadv.experiments.paper import PAPER
from tfadv.report.data import ReportData, Training
from tfadv.report.differences import mean_gain

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
    assert control[:5] == ("augmented", "resnet18, resnet50", "0.03", "1,000", "+3.0")
    assert (control[7], control[-1], ours[4], ours[7], ours[-1]) == ("+1.5", "–", "+6.5", "+0.5", "+14.96")
    ends = [difference_of_counts(a, b, 1000).points[1:] for a, b in ((200, 100), (80, 50))]
    assert ours[5:7] == tuple(f"{(low + high) / 2:+.1f}" for low, high in zip(*ends))  # only counts are known
    # 200 less 100 of 1,000 images under FGSM, 100 less 50 under PGD
    rows = {row[0]: row for row in remaining(data)}
    assert rows["baseline"][1:6] == ("resnet18", "pgd", "0.03", "1,000", "5.0") and set(rows["baseline"][8:]) == {"–"}
    assert rows["retrained"][5] == "10.0" and rows["retrained"][8] == "+5.0"
    assert rows["retrained"][11] == "+10.0" and rows["retrained"][-1] == "1,000"
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
    line = "- cifar10, eps 0.03: {} points; over the baseline +3.0 to +6.5. 3 runs."
    assert "in all runs of 0 of these 1 the method gains more, in all runs of 0 it gains less" in control
    assert control.splitlines()[-1] == line.format("-3.5 to +3.5")
    assert "- `retrained` on cifar10: +10.0 under FGSM, +5.0 under the strongest attack." in remains
    # resnet50: from 30 to 65 and 35% on stored images, from 5 to 8 and 6% under a new attack
    assert "What retraining changes for resnet50" in others
    assert others.endswith("- cifar10, eps 0.03: +5.0 to +35.0 on the stored images, +1.0 to +3.0 under a new attack.")
    smaller, larger_by = difference_of_counts(50, 100, 1000), difference_of_counts(100, 50, 1000)
    assert larger.endswith(f"- cifar10, eps 0.03: {smaller} / {smaller} / {larger_by}")
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
    assert "over the baseline -7.5 to +6.5. 2 runs." in control([data, losing])
    assert "-5.0 to +3.0 under a new attack." in others([data, losing])
    assert "of 1 of these 1 the method gains more" in control([data])
    assert "in all runs of 1 it gains less" in control([losing])
    guessing = changed(data, "retrained", "clean", 100)  # its gain means nothing
    assert remains([data]) and remains([guessing]) == ""


def test_runs_that_differ_in_the_seed_only_tell_what_a_seed_changes(data):
    def run(seed, flags, correct):
        changed_data = changed(data, "retrained", "whitebox", correct)
        records = tuple(dataclasses.replace(r, seed=seed) for r in changed_data.records)
        return dataclasses.replace(changed_data, records=records, provenance={"flags.txt": flags})

    flags = "--seed={}\n--epochs=8\n--workdir=runs/{}\n"
    runs = [run(seed, flags.format(seed, seed), 150 + 10 * seed) for seed in (0, 1)]
    control, *_ = (question.conclusion for question in QUESTIONS)
    expected = "`retrained` of resnet18 on cifar10 gains 5.0, 6.0 points with the seeds 0, 1 (standard deviation 0.7)."
    assert expected in control(runs)
    assert "with the seeds" not in control(runs[:1]) and "with the seeds" not in control([data, data])
    other = run(1, flags.format(1, 1).replace("epochs=8", "epochs=9"), 160)
    assert "with the seeds" not in control([runs[0], other]) and "with the seeds" not in control([runs[0], runs[0]])


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
    for each in data.records:  # which images are correct is taken over too
        assert each.per_image.shape == (each.n,) and each.per_image.sum() == each.correct
    assert mean_gain(data, "retrained").paired
    assert "low" in (folder / "README.md").read_text(encoding="utf-8")
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


def test_results_that_are_not_those_of_the_work_folder_are_not_taken_over(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    path = run.workdir / "results.json"
    path.write_text(re.sub(r'"correct": \d+', '"correct": 3', path.read_text(), count=1))
    with pytest.raises(UserError, match="has other results of resnet_tiny/baseline than its results.json"):
        results.take_over(run.workdir, tmp_path / "results")


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
