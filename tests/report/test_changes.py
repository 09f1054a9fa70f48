"""Attacks without eps in records and in the report's table of other changes."""

import contextlib
import dataclasses
import types

import numpy as np

from tfadv import attacks
from tfadv.evaluation.records import ModelId
from tfadv.evaluation.result import CostSummary, Result
from tfadv.pipeline import reporting, steps
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.model_cards import _images
from tfadv.report.tables import attacks_table, changes_table

N = 10


def evaluation(spec, counts, eps=None, sets=()):
    """One whose rows have these numbers of images right, the first ones."""
    attack = attacks.parse(spec)
    rows = np.arange(N) < np.array(counts)[:, None]
    settings = attack.settings() | ({"constants": "CIFAR-C"} if sets else {})
    result = Result(attack.name, settings, eps, np.arange(N) < 9, rows, CostSummary(), sets=sets)
    return types.SimpleNamespace(result=result, attack=attack, sizes=(), of=None)


def found(monkeypatch, *others):
    """The records of a run with these evaluations, and FGSM."""
    fgsm = evaluation("fgsm", [8], 0.5)
    fgsm.entry, fgsm.transfer = types.SimpleNamespace(content="a"), fgsm.result
    monkeypatch.setattr(steps, "evaluate_fgsm", lambda *_: fgsm)
    monkeypatch.setattr(steps, "model_id", lambda *_: ModelId("digits", "mine", "original", 0))
    monkeypatch.setattr(steps, "surrogate", lambda *_: types.SimpleNamespace(name="mine/original"))
    monkeypatch.setattr(reporting, "attacked_on_disk", lambda *_: others)
    run = types.SimpleNamespace(
        cache=types.SimpleNamespace(looking=contextlib.nullcontext),
        config=types.SimpleNamespace(epsilons=(0.5,)),
        attacks=(),
        stores_images=True,
    )
    return reporting.records(run, None)


SETS = evaluation("corruptions(corruptions=fog)", [10, 8, 6, 4, 2], sets=tuple(("fog", s) for s in range(1, 6)))
SINGLE = evaluation("contrast(severity=2)", [5], sets=(("contrast", 2),))
SPATIAL = evaluation("spatial", [1])


def test_no_worst_case_joins_them(monkeypatch):
    records = found(monkeypatch, evaluation("pgd", [7], 0.5), SPATIAL, SETS, SINGLE)
    (worst,) = [record for record in records if record.attack == "worst"]
    assert (worst.correct, worst.settings["attacks"], worst.eps) == (7, ["fgsm", "pgd"], 0.5)
    alone = found(monkeypatch, SPATIAL)
    assert [(r.attack, r.eps, r.correct) for r in alone if r.settings] == [("spatial", None, 1)]


def test_a_record_for_each_set(monkeypatch):
    sets = [record for record in found(monkeypatch, SETS, SINGLE) if record.settings]
    assert [(r.attack, r.attack_label, r.correct) for r in sets] == [
        *(("corruptions", f"fog(severity={s})", 12 - 2 * s) for s in range(1, 6)),
        ("contrast", "contrast(severity=2)", 5),
    ]
    assert all(r.eps is None and r.settings["constants"] == "CIFAR-C" for r in sets)
    assert _images(sets[0]) == "fog(severity=1)"


def test_the_table_has_means_over_severities(monkeypatch):
    mine = found(monkeypatch, evaluation("pgd", [7], 0.5), SPATIAL, SETS, SINGLE)
    other = [dataclasses.replace(record, defense="nfgsm") for record in found(monkeypatch, SPATIAL)]
    data = ReportData("digits", ("a", "b"), (*mine, *other), (), "original")
    table = changes_table(data)
    assert table.head == ("change", "severities", "mine/original", "mine/nfgsm")
    assert [tuple(row) for row in table.rows] == [
        ("spatial", None, 10.0, 10.0),
        ("all corruptions", "1, 2, 3, 4, 5", 60.0, None),
        ("fog", "1, 2, 3, 4, 5", 60.0, None),
        ("contrast", "2", 50.0, None),
    ]
    assert "CIFAR-C constants" in table.title
    assert [row[2] for row in attacks_table(data).rows] == ["pgd", "worst case of fgsm, pgd"]
    assert strongest(data, "mine")[0] == "pgd"


def test_without_such_attacks_there_is_no_table(monkeypatch):
    records = tuple(found(monkeypatch, evaluation("pgd", [7], 0.5)))
    assert changes_table(ReportData("digits", ("a", "b"), records, (), "original")) is None
