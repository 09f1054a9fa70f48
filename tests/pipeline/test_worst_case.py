"""The worst case over several attacks joins what is measured in one norm."""

import contextlib
import types

import numpy as np
import pytest

from tfadv import attacks
from tfadv.evaluation.records import ModelId
from tfadv.evaluation.result import CostSummary, Result
from tfadv.pipeline import reporting, steps


def evaluation(spec, robust, sizes=()):
    attack, robust = attacks.parse(spec), np.array([robust], bool)
    cost = CostSummary(gradients=1, forwards=1)
    result = Result(attack.name, attack.settings(), 0.5, np.ones(4, bool), robust, cost=cost)
    return types.SimpleNamespace(result=result, attack=attack, sizes=sizes)


@pytest.mark.parametrize(
    "specs, correct, labels",
    [
        (["pgd"], 1, ["fgsm", "pgd"]),
        (["pgd", "pgd(norm=l2)"], 1, ["fgsm", "pgd"]),
        (["pgd(norm=l2)", "square(norm=l2)"], 2, ["pgd(norm=l2)", "square(norm=l2)"]),
    ],
)
def test_one_norm(monkeypatch, specs, correct, labels):
    robust = {"pgd": [0, 1, 0, 1], "pgd(norm=l2)": [0, 1, 1, 1], "square(norm=l2)": [1, 1, 1, 0]}
    fgsm = evaluation("fgsm", [1, 1, 0, 0])
    fgsm.entry, fgsm.transfer = types.SimpleNamespace(content="a"), fgsm.result
    monkeypatch.setattr(steps, "evaluate_fgsm", lambda *_: fgsm)
    monkeypatch.setattr(steps, "model_id", lambda *_: ModelId("digits", "mine", "original", 0))
    monkeypatch.setattr(steps, "surrogate", lambda *_: types.SimpleNamespace(name="mine/original"))
    found = [evaluation(spec, robust[spec]) for spec in specs]
    found.append(evaluation("bim", [0, 0, 0, 0], sizes=(0.9,)))  # a size of its own joins nothing
    monkeypatch.setattr(reporting, "_attacked", lambda *_: found)
    run = types.SimpleNamespace(
        cache=types.SimpleNamespace(looking=contextlib.nullcontext), config=types.SimpleNamespace(epsilons=(0.5,))
    )
    records = reporting.records(run, None)
    assert [(r.attack, r.correct) for r in records if r.eps == 0.9] == [("bim", 0)]
    (worst,) = [r for r in records if r.attack == "worst"]
    assert (worst.correct, worst.settings["attacks"]) == (correct, labels)
