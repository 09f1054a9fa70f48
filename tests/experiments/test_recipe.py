from __future__ import annotations

import dataclasses

import pytest

from tfadv.experiments import RECIPES
from tfadv.experiments.comparison import compared
from tfadv.experiments.paper import PAPER
from tfadv.experiments.recipe import Experiment, Recipe


def test_stages_of_the_paper():
    assert PAPER.stages == (
        *("prepare", "train", "attack", "generate", "augment", "retrain"),
        *("evaluate", "explain", "report", "compare", "all", "status"),
    )  # fmt: skip
    assert [PAPER.target(stage) for stage in PAPER.stages] == [
        *("splits", None, "reference_evaluation", "samples", None, None),
        *("evaluations", "explanations", "report", "report", "report", "status"),
    ]  # fmt: skip
    assert [recipe.name for recipe in PAPER.trained_by("retrain")] == ["retrained"]


def test_a_further_recipe_has_a_stage_of_its_name():
    experiment = PAPER.with_recipes((Recipe("trades", "TRADES", start="baseline", objective="trades"),))
    assert experiment.stages[5:7] == ("retrain", "trades")
    assert experiment.recipe("trades").summary == "starts from baseline; clean images; objective trades"


def test_rounds_start_from_each_other():
    first, second = RECIPES["rounds"].expanded(2)
    assert (first.name, first.start, second.name, second.start) == (
        *("rounds(round=1)", "reference"),
        *("rounds(round=2)", "rounds(round=1)"),
    )
    assert RECIPES["rounds"].with_settings({"round": 2}) == second == second.expanded(9)[0]
    assert RECIPES["nfgsm"].expanded(3) == (RECIPES["nfgsm"],)
    experiment = compared(PAPER, (first, second))
    assert [(r.name, r.start) for r in experiment.recipes] == [
        ("baseline", "scratch"), ("rounds(round=1)", "baseline"), ("rounds(round=2)", "rounds(round=1)"),
    ]  # fmt: skip


def test_of_many_rounds_few_are_evaluated():
    recipes = RECIPES["rounds"].expanded(11)
    assert [recipe.round for recipe in recipes] == list(range(1, 12))
    assert [recipe.round for recipe in recipes if recipe.evaluated] == [1, 2, 4, 8, 11]


def test_the_defense_that_results_name():
    assert [PAPER.recipe(name).defense for name in ("baseline", "augmented", "retrained")] == [None, None, "surrogate"]
    assert RECIPES["nfgsm"].with_settings({"share": 0.5}).defense == "nfgsm(share=0.5)"
    assert RECIPES["rounds"].expanded(1)[0].defense == "rounds" and RECIPES["control"].defense is None


def test_published_figures():
    figures = PAPER.published
    assert figures.covers("cats_vs_dogs") and figures.covers("oxford_iiit_pet") and not figures.covers("digits")
    assert figures.accuracy("cifar10", "resnet50", "retrained", 0.02) == 22.99
    assert figures.accuracy("mnist", "resnet101", "baseline", None) == 98.65
    for missing in (
        ("digits", "resnet18", "baseline", 0.01),
        ("mnist", "resnet_tiny", "baseline", 0.01),
        ("mnist", "resnet18", "trades", 0.01),
        ("mnist", "resnet18", "baseline", 0.1),
        ("mnist", "resnet18", "augmented", None),
    ):
        assert figures.accuracy(*missing) is None


@pytest.mark.parametrize(
    "wrong",
    [{"samples": "other"}, {"samples": "own"}, {"epochs": "seed"}, {"name": ""}, {"name": "scratch"}, {"name": "a/b"}],
)
def test_invalid_recipes(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**{"name": "a", "title": "A"} | wrong)


A, B = Recipe("a", "A"), Recipe("b", "B", start="a", samples="surrogate")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"recipes": (A, A)}, "same name"),
        ({"reference": "c"}, "reference"),
        ({"recipes": (B, A)}, "start"),
        ({"reference": "b"}, "samples"),
        ({"recipes": (A, dataclasses.replace(B, stage="prepare"))}, "stage 'prepare' is taken"),
        ({"extra_stages": {"report": "samples"}}, "taken"),
        ({"extra_stages": {"generate": "unknown"}}, "no target"),
    ],
)
def test_invalid_experiments(wrong, message):
    arguments = {"name": "e", "recipes": (A, B), "reference": "a"} | wrong
    with pytest.raises(ValueError, match=message):
        Experiment(**arguments)
    Experiment("e", (A, B), "a", extra_stages={"generate": "samples"})
