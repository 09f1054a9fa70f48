"""The rules, applied to diagnostics written by hand."""

from __future__ import annotations

import copy
import json

import pytest

from tfadv.evaluation.checks import RULES, Check, run_checks

N, RIGHT, EPS = 128, 120, 0.1


def first(count, n=N):
    """Flags of N images of which the first `count` are set."""
    return "1" * count + "0" * (n - count)


HONEST = {
    "n": N,
    "eps": EPS,
    "probability_rows": 0,
    "change": 2e-7,
    "random_layers": [],
    "clean": {"right": first(RIGHT)},
    "refused": None,
    "zero_gradient": first(0),
    "attacks": {
        name: {"eps": 0.5 if name in ("pgd-large", "grey") else EPS, "right": first(left)}
        for name, left in {
            "fgsm": 60,
            "pgd": 50,
            "pgd-steps": 49,
            "pgd-restarts": 48,
            "pgd-large": 0,
            "grey": 12,
            "apgd-ce": 49,
            "apgd-t": 46,
            "square": 58,
        }.items()
    },
}


def diagnostics(entries=(), **correct):
    """HONEST with other entries, and attacks (_ for -) that leave other numbers of images, or these images, correct."""
    changed = copy.deepcopy(HONEST) | dict(entries)
    for name, right in correct.items():
        attack = changed["attacks"].setdefault(name.replace("_", "-"), {"eps": EPS})
        attack["right"] = first(right) if isinstance(right, int) else right
    return changed


def suspicious(checks):
    return {check.name for check in checks if check.passed is False}


WHITE_BOX_46 = dict.fromkeys(("fgsm", "pgd", "pgd_steps", "pgd_restarts", "apgd_ce", "apgd_t"), 46)
LEAKING = "0" * 2 + first(RIGHT, 124)[2:] + "1" * 4  # four images became correct, two incorrect
CASES = [  # name of the check, diagnostics that just pass, diagnostics that just fail
    ("probabilities", diagnostics({"probability_rows": N - 1}), diagnostics({"probability_rows": N})),
    ("randomness", diagnostics({"change": 0.9e-4}), diagnostics({"change": 1.1e-4})),
    ("randomness", diagnostics({"change": 0.1, "passes": 20}), diagnostics({"change": 0.1, "passes": 1})),
    ("zero gradients", diagnostics({"zero_gradient": first(10)}), diagnostics({"zero_gradient": first(11)})),
    (
        "zero gradients",
        diagnostics({"zero_gradient": first(N - RIGHT)[::-1]}),
        diagnostics({"zero_gradient": first(N)}),
    ),
    ("iterations", diagnostics(fgsm=45, pgd=50), diagnostics(fgsm=44, pgd=50)),
    ("weaker with steps", diagnostics(pgd_steps=55), diagnostics(pgd_steps=56)),
    ("steps", diagnostics(pgd_steps=40), diagnostics(pgd_steps=39)),
    ("restarts", diagnostics(pgd_restarts=40), diagnostics(pgd_restarts=39)),
    ("black box", diagnostics(square=43), diagnostics(square=42)),
    ("black box", diagnostics(**WHITE_BOX_46, square=43), diagnostics(**WHITE_BOX_46, square=42)),
    ("black box", diagnostics(transfer=43), diagnostics(transfer=42)),
    ("black box", diagnostics(square=43, transfer=90), diagnostics(square=90, transfer=10)),
    ("cross-entropy", diagnostics(apgd_ce=64), diagnostics(apgd_ce=65)),
    ("large eps", diagnostics(pgd_large=22), diagnostics(pgd_large=23)),
    ("large eps", diagnostics(pgd_large=RIGHT, grey=RIGHT), diagnostics(pgd_large=RIGHT, grey=0)),
    ("label leaking", diagnostics(fgsm=LEAKING), diagnostics(fgsm="1" * (RIGHT + 4) + "0" * 4)),
    ("label leaking", diagnostics(fgsm=RIGHT), diagnostics(fgsm=N)),
    ("catastrophic overfitting", diagnostics(fgsm=99, pgd=0), diagnostics(fgsm=100, pgd=0)),
    ("catastrophic overfitting", diagnostics(fgsm=118, pgd=16), diagnostics(fgsm=118, pgd=15)),
]


def run_check(name, values):
    return {check.name: check for check in run_checks(values)}[name]


@pytest.mark.parametrize("name, fine, bad", CASES)
def test_threshold_of_each_rule(name, fine, bad):
    passed, failed = run_check(name, fine), run_check(name, bad)
    assert passed.passed is True and failed.passed is False
    assert passed.sentence != failed.sentence
    for check in (passed, failed):
        assert check.sentence.endswith(".") and check.sentence.count("\n") == 0
        assert json.loads(json.dumps(check.figures)) == check.figures
        assert all(type(v) in (int, float) for v in check.figures.values()) and check.figures


def test_honest_diagnostics_pass_every_rule():
    checks = run_checks(HONEST)
    assert [check.name for check in checks] == list(RULES) and {name for name, *_ in CASES} == set(RULES)
    assert all(check.passed is True for check in checks)


def test_diagnostics_are_not_modified():
    before = copy.deepcopy(HONEST)
    run_checks(HONEST)
    assert before == HONEST


def test_only_images_correct_without_an_attack_are_counted():
    check = run_check("iterations", diagnostics(fgsm=40, pgd="1" * 50 + "0" * 70 + "1" * 8))
    assert check.figures["count"] == 10 and check.figures["total"] == RIGHT and check.figures["tolerated"] == 0.02
    assert check.figures["share"] == pytest.approx(10 / 120) and check.figures["low"] == pytest.approx(0.0459, abs=1e-4)
    assert "10 of 120 images (8.3%)" in check.sentence


def test_the_same_share_of_fewer_images_proves_less():
    few = diagnostics({"n": 24, "clean": {"right": first(24, 24)}, "zero_gradient": first(2, 24)})
    many = diagnostics({"n": 240, "clean": {"right": first(240, 240)}, "zero_gradient": first(20, 240)})
    for values in (few, many):
        n = values["n"]
        for entry in values["attacks"].values():
            entry["right"] = first(0, n)
    assert run_check("zero gradients", few).passed and not run_check("zero gradients", many).passed


def test_a_rule_that_cannot_be_applied_neither_passes_nor_fails():
    refused = diagnostics({"refused": "ends in a softmax", "attacks": {}, "zero_gradient": "", "probability_rows": N})
    hopeless = diagnostics({"clean": {"right": first(0)}})
    for values in (refused, hopeless):
        checks = run_checks(values)
        assert {c.name for c in checks if c.passed is not None} == {"probabilities", "randomness"}
        assert all(c.sentence.startswith("Not evaluated") for c in checks if c.passed is None)
    assert suspicious(run_checks(refused)) == {"probabilities"}


def test_checks_are_frozen():
    with pytest.raises(AttributeError):
        Check("a", True, {}, "b").passed = False
