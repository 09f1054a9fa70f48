"""The leaderboard: which line a model gets, in which order, and what is read beside results.json."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.conftest import make_record
from tfadv.errors import UserError
from tfadv.report import leaderboard
from tfadv.report.data import Training
from tfadv.report.leaderboard import Run

STEPS = {"steps": 20}


def records(defense, clean=0.9, **attacks):
    """Of a model whose accuracy under FGSM and under other attacks at eps 0.1 is given."""
    found = [make_record("resnet18", defense, "clean", accuracy=clean)]
    for attack, accuracy in attacks.items():
        own = {} if attack == "autoattack" else STEPS  # {}: its defaults
        given = {} if attack == "fgsm" else {"attack": attack, "settings": own}
        found.append(make_record("resnet18", defense, "whitebox", 0.1, accuracy, **given))
    return found


def run(*models, name="a", training=(), checks=(), share=0.0):
    return Run(name, tuple(record for model in models for record in model), dict(training), dict(checks), share)


def column(rows, name):
    return [row[name] for row in rows]


accuracies = st.integers(0, 100).map(lambda count: count / 100)


@settings(max_examples=40)
@given(st.lists(st.tuples(accuracies, st.none() | accuracies, st.none() | accuracies), min_size=1, max_size=6))
def test_a_weaker_attack_never_places_a_model_above_one_under_a_stronger_attack(models):
    own = []
    for i, (fgsm, pgd, autoattack) in enumerate(models):
        others = {"pgd": pgd, "autoattack": autoattack}
        own.append(records(str(i), fgsm=fgsm, **{name: value for name, value in others.items() if value is not None}))
    rows = leaderboard.leaderboard([run(*own)])
    assert sorted(column(rows, "defense")) == sorted(map(str, range(len(models))))
    groups = []
    for row in rows:
        fgsm, pgd, autoattack = models[int(row["defense"])]
        counts = autoattack if autoattack is not None else pgd if pgd is not None else fgsm
        groups.append((2 - (pgd is not None) if autoattack is None else 0, -counts))
        assert (row["place"] == "–") == (row["strongest attack"] == "FGSM only") == (groups[-1][0] == 2)
    assert groups == sorted(groups)
    placed = [(int(row["place"]), group) for row, group in zip(rows, groups) if row["place"] != "–"]
    assert placed == [(groups.index(group) + 1, group) for _, group in placed]  # equal models share a place


def test_models_in_doubt_have_no_place():
    checks = {
        "resnet18/masked": [{"check": "Black box", "answer": "suspicious"}, {"check": "Steps", "answer": "passed"}]
    }
    checks["resnet18/sound"] = [
        {"check": "Black box", "answer": "passed"},
        {"check": "Steps", "answer": "not evaluated"},
    ]
    models = [records("masked", autoattack=0.8), records("sound", autoattack=0.4), records("one", 0.54, autoattack=0.5)]
    rows = leaderboard.leaderboard([run(*models, checks=checks, share=0.5)])
    assert [(row["place"], row["defense"], row["checks"]) for row in rows] == [
        ("1", "sound", "1 of 2 passed"),
        ("–", "masked", "suspicious: Black box"),
        ("–", "one", "hardly better than guessing"),
    ]


def test_a_line_has_the_figures_of_its_records():
    attacked = [make_record("resnet18", "pgd", "whitebox", eps, 0.5 - eps) for eps in (0.01, 0.1)]
    few = {"n": 50, "correct": 8, "attack": "pgd", "settings": STEPS, "label": "pgd(steps=20)"}
    strong = make_record("resnet18", "pgd", "whitebox", 0.1, 0.16, **few)
    weaker = make_record("resnet18", "pgd", "whitebox", 0.1, 0.3, attack="square", settings={})
    larger = make_record("resnet18", "pgd", "whitebox", 0.5, 0.0, **few)  # a size of its own
    other = make_record(
        "resnet18", "pgd", "whitebox", 2.0, 0.2, attack="fmn", label="fmn(norm=l1)", settings={"norm": "l1"}
    )
    stored = make_record("resnet18", "pgd", "transfer", 0.1, 0.01)
    clean = make_record("resnet18", "pgd", "clean", accuracy=0.9, interval=(0.83, 0.94))
    training = {"resnet18/pgd": Training(12_345, 90.0)}
    found = run([clean, *attacked, strong, weaker, larger, other, stored], training=training)
    linf, l1 = leaderboard.leaderboard([found])
    assert (linf["eps"], linf["clean"], linf["FGSM"]) == ("L∞ 0.1", "90.0 ± 7.0", "40.0 ± 60.0")
    assert (linf["PGD-20"][:4], linf["AutoAttack"], linf["strongest attack"]) == ("16.0", "–", "pgd(steps=20)")
    assert (linf["images"], linf["gradients, 1000s"], linf["minutes"]) == ("100 / 50", "12", "1.5")
    assert (l1["eps"], l1["FGSM"], l1["strongest attack"]) == ("L1 2", "–", "fmn(norm=l1) 20.0 ± 80.0")
    assert (linf["place"], l1["place"], linf["checks"], linf["run"]) == ("1", "1", "–", "a")


def test_autoattack_with_other_settings_is_an_attack_like_others():
    short = {"attack": "autoattack", "label": "autoattack(steps=2)", "settings": {"steps": 2}}
    models = [records("short"), records("full", autoattack=0.1)]
    models[0].append(make_record("resnet18", "short", "whitebox", 0.1, 0.8, **short))
    full, other = leaderboard.leaderboard([run(*models)])
    assert (full["defense"], full["place"], full["strongest attack"]) == ("full", "1", "autoattack")
    assert (other["AutoAttack"], other["strongest attack"]) == ("–", "autoattack(steps=2) 80.0 ± 80.0")


def test_an_attack_that_ended_early_is_left_out():
    early = {"attack": "autoattack", "settings": {}, "n": 50, "correct": 45, "of": 400}
    models = [records("early", fgsm=0.95, pgd=0.5), records("all", fgsm=0.95, autoattack=0.4)]
    models[0].append(make_record("resnet18", "early", "whitebox", 0.1, 0.9, **early))
    rows = leaderboard.leaderboard([run(*models)])
    assert column(rows, "defense") == ["all", "early"] and column(rows, "AutoAttack")[1] == "–"
    assert rows[1]["strongest attack"] == "pgd" and rows[1]["images"] == "100"


def test_of_several_rounds_the_last_has_a_line():
    names = ["rounds(round=9)", "nfgsm", "rounds(round=10)", "rounds(size=5, round=2)"]
    shown = leaderboard.last_rounds(record for name in names for record in records(name))
    assert [record.defense for record in shown] == ["rounds(round=10)", "nfgsm", "rounds(size=5, round=2)"]


def write_run(folder, models, evidence=None, histories=()):
    """A work folder with results.json and, where they are given, the evidence of its report and trained models."""
    (folder / "report").mkdir(parents=True)
    own = [record.to_dict() for model in models for record in model]
    (folder / "results.json").write_text(json.dumps(own))
    if evidence:
        (folder / "report/evidence.json").write_text(json.dumps(evidence))
    for number, (defense, gradients) in enumerate(histories):
        model = folder / f"models/resnet18/{number}"
        model.mkdir(parents=True)
        (model / "history.json").write_text(json.dumps({"gradients": gradients, "history": {}, "best_epoch": 1}))
        (model / "manifest.json").write_text(json.dumps({"model": "resnet18", "defense": defense, "seconds": 10.0}))
    return folder


def test_a_round_costs_what_all_rounds_before_cost(tmp_path):
    histories = [(f"rounds(round={number}, size=5)", number) for number in range(1, 12)]
    histories += [("nfgsm(share=0.5)", 5), ("rounds(round=2)", 7)]  # whose first round is not there
    found = leaderboard.read(write_run(tmp_path / "run", [records("nfgsm")], histories=histories)).training
    assert (
        found["resnet18/rounds(round=11, size=5)"].gradients,
        found["resnet18/rounds(round=11, size=5)"].seconds,
    ) == (66, 110)
    assert found["resnet18/nfgsm(share=0.5)"].gradients == 5 and "resnet18/rounds(round=2)" not in found


def evidence(correct):
    """Of a model that 4 checks were run on, when it classified `correct` of 100 images correctly."""
    classes = [{"class": name, "n": n} for name, n in (("cat", 52), ("dog", 48))]
    clean = {"protocol": "clean", "correct": correct, "n": 100, "classes": classes}
    checks = [{"check": str(number), "answer": "passed"} for number in range(4)]
    return {"models": {"resnet18/nfgsm": {"results": [clean], "gradient_masking": checks}}}


def test_checks_are_those_of_the_model_that_the_results_are_of(tmp_path):
    fresh = leaderboard.read(write_run(tmp_path / "fresh", [records("nfgsm", fgsm=0.5)], evidence(90)))
    stale = leaderboard.read(write_run(tmp_path / "stale", [records("nfgsm", fgsm=0.5)], evidence(89)))
    assert column(leaderboard.leaderboard([fresh, stale]), "checks") == ["4 of 4 passed", "–"]
    assert (fresh.largest_share, stale.largest_share) == (0.52, 0.0)


def test_the_page_of_your_own_runs(tmp_path, monkeypatch, capsys):
    for name, accuracy in (("a", 0.3), ("b", 0.4)):
        write_run(tmp_path / "runs" / name, [records("nfgsm", fgsm=0.9, autoattack=accuracy)])
    (tmp_path / "runs/b/report/report.html").touch()
    monkeypatch.chdir(tmp_path)
    leaderboard.main(["runs/a", "runs/b", "runs/a/"])
    content = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(tmp_path / "leaderboard.html")
    links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', content)
    assert links == [("runs/b/report/report.html", "runs/b"), ("runs/a/results.json", "runs/a")]  # b is more robust
    assert all((tmp_path / link).is_file() for link, _ in links)
    assert leaderboard.ORDER in content and not re.search(r'(src|href)="http', content)


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="has no results.json: run tfadv with --stage=report first"):
        leaderboard.read(tmp_path)
    (tmp_path / "results.json").write_text('[{"accuracy": 1}]')
    with pytest.raises(UserError, match="can't be read as a run of this version of tfadv .TypeError"):
        leaderboard.read(tmp_path)
    for arguments in ([], ["--help"]):
        with pytest.raises(SystemExit, match="Usage: python -m"):
            leaderboard.main(arguments)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="no model has a result under attack"):
        leaderboard.write([tmp_path], tmp_path / "leaderboard.html")
