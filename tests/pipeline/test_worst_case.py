"""The worst case over several attacks joins what is measured in one norm."""

import contextlib
import dataclasses
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
    result = Result(attack.name, attack.settings(), 0.5, np.ones(robust.shape[1], bool), robust, cost=cost)
    return types.SimpleNamespace(result=result, attack=attack, sizes=sizes, of=None)


@pytest.mark.parametrize(
    "specs, correct, labels",
    [
        (["pgd"], 1, ["fgsm", "pgd"]),
        (["pgd", "pgd(norm=l2)"], 1, ["fgsm", "pgd"]),
        (["pgd(norm=l2)", "square(norm=l2)"], None, None),
    ],
)
def test_only_attacks_in_linf(monkeypatch, specs, correct, labels):
    robust = {"pgd": [0, 1, 0, 1], "pgd(norm=l2)": [0, 1, 1, 1], "square(norm=l2)": [1, 1, 1, 0]}
    fgsm = evaluation("fgsm", [1, 1, 0, 0])
    fgsm.entry, fgsm.transfer = types.SimpleNamespace(content="a"), fgsm.result
    monkeypatch.setattr(steps, "evaluate_fgsm", lambda *_: fgsm)
    monkeypatch.setattr(steps, "model_id", lambda *_: ModelId("digits", "mine", "original", 0))
    monkeypatch.setattr(steps, "surrogate", lambda *_: types.SimpleNamespace(name="mine/original"))
    found = [evaluation(spec, robust[spec]) for spec in specs]
    found.append(evaluation("bim", [0, 0, 0, 0], sizes=(0.9,)))  # a size of its own joins nothing
    monkeypatch.setattr(reporting, "attacked_on_disk", lambda *_: found)
    run = types.SimpleNamespace(
        cache=types.SimpleNamespace(looking=contextlib.nullcontext),
        config=types.SimpleNamespace(epsilons=(0.5,)),
        stores_images=True,
        attacks=[each.attack for each in found],
    )
    records = reporting.records(run, None)
    assert [(r.attack, r.correct) for r in records if r.eps == 0.9] == [("bim", 0)]
    worst = [(r.correct, r.settings["attacks"]) for r in records if r.attack == "worst"]
    assert worst == ([(correct, labels)] if labels else [])


@pytest.mark.parametrize(
    "asked, joined",
    [
        (["pgd"], ["pgd", "mifgsm"]),  # those of earlier runs: on as many images, and on fewer
        (["bim"], ["pgd", "bim", "mifgsm"]),
        ([], ["pgd", "mifgsm"]),  # the most images
        (["pgd", "bim"], ["pgd", "bim", "mifgsm"]),  # the images that they have in common
    ],
)
def test_attacks_of_earlier_runs_join_those_of_this_run(asked, joined):
    found = [evaluation("pgd", [0, 1, 0, 1]), evaluation("bim", [0, 1]), evaluation("mifgsm", [1, 1, 1, 0])]
    run = types.SimpleNamespace(attacks=[each.attack for each in found if each.attack.name in asked])
    assert [each.attack.name for each in reporting._joined(run, found)] == joined


def test_an_attack_has_one_accuracy_at_a_size(monkeypatch):
    first, second = evaluation("bim", [0, 0, 0, 1], sizes=(0.9,)), evaluation("bim", [0, 0, 1, 1], sizes=(0.8, 0.9))
    second.result = dataclasses.replace(second.result, adversarial_correct=np.array([[0, 1, 1, 1], [0, 0, 1, 1]], bool))
    fgsm = evaluation("fgsm", [1, 1, 0, 0])
    fgsm.entry, fgsm.transfer = types.SimpleNamespace(content="a"), fgsm.result
    monkeypatch.setattr(steps, "evaluate_fgsm", lambda *_: fgsm)
    monkeypatch.setattr(steps, "model_id", lambda *_: ModelId("digits", "mine", "original", 0))
    monkeypatch.setattr(steps, "surrogate", lambda *_: types.SimpleNamespace(name="mine/original"))
    monkeypatch.setattr(reporting, "attacked_on_disk", lambda *_: [first, second])
    run = types.SimpleNamespace(
        cache=types.SimpleNamespace(looking=contextlib.nullcontext),
        config=types.SimpleNamespace(epsilons=(0.5,)),
        stores_images=True,
        attacks=(),
    )
    found = [(r.eps, r.correct) for r in reporting.records(run, None) if r.attack == "bim"]
    assert found == [(0.9, 1), (0.8, 3)]


def test_what_this_run_asks_for_comes_first_then_most_images(monkeypatch, tmp_path):
    made = [([0.1], 20, False), ([0.3, 0.6], 30, True), ([0.6], 90, True), ([0.7], 10, True)]
    manifests, trained = {}, types.SimpleNamespace(folder="m/original")
    for epsilons, n, own in made:
        name = steps.folder_of_attack(trained, attacks.parse("bim"), tuple(epsilons if own else ()))
        (tmp_path / name).mkdir(parents=True)
        inputs = {"attack": "bim", "epsilons": epsilons, "images": n} | ({"own_sizes": True} if own else {})
        manifests[name] = {"inputs": inputs}

    def evaluate_attack(run, trained, attack, n, sizes, of):
        return types.SimpleNamespace(entry=types.SimpleNamespace(content="a"), found=(n, sizes))

    monkeypatch.setattr(steps, "evaluate_attack", evaluate_attack)
    workdir = types.SimpleNamespace(root=tmp_path, manifest=manifests.get)
    cache = types.SimpleNamespace(looking=contextlib.nullcontext)
    for sizes, expected in (
        ({}, [(20, ()), (90, (0.6,)), (30, (0.3, 0.6)), (10, (0.7,))]),
        ({"bim": (0.3, 0.6)}, [(30, (0.3, 0.6)), (90, (0.6,)), (20, ()), (10, (0.7,))]),
    ):
        run = types.SimpleNamespace(workdir=workdir, sizes=sizes, cache=cache)
        assert [each.found for each in reporting.attacked_on_disk(run, trained)] == expected
