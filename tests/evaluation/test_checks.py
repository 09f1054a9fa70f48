"""The rules on facts made by hand."""

import copy
import json

import pytest

from tfadv.evaluation.checks import RULES, Check, judge

N, RIGHT, EPS = 128, 120, 0.1

# ---- judge() on facts made by hand: each attack leaves the first so many images right, of which 120 are at first


def first(count, n=N):
    return "1" * count + "0" * (n - count)


HONEST = {
    "n": N,
    "eps": EPS,
    "probability_rows": 0,
    "change": 2e-7,
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


def facts(of_outputs=(), **left):
    """HONEST but for some entries, and some attacks (_ for -) that leave so many, or just these, images right."""
    made = copy.deepcopy(HONEST) | dict(of_outputs)
    for name, right in left.items():
        entry = made["attacks"].setdefault(name.replace("_", "-"), {"eps": EPS})
        entry["right"] = first(right) if isinstance(right, int) else right
    return made


def suspicious(checks):
    return {check.name for check in checks if check.passed is False}


WHITE_BOX_46 = dict.fromkeys(("fgsm", "pgd", "pgd_steps", "pgd_restarts", "apgd_ce", "apgd_t"), 46)
LEAKING = "0" * 2 + first(RIGHT, 124)[2:] + "1" * 4  # four images became right, two wrong
CASES = [  # name of the check, what just passes, what is just suspicious
    ("probabilities", facts({"probability_rows": N - 1}), facts({"probability_rows": N})),
    ("randomness", facts({"change": 0.9e-4}), facts({"change": 1.1e-4})),
    ("zero gradients", facts({"zero_gradient": first(10)}), facts({"zero_gradient": first(11)})),
    ("zero gradients", facts({"zero_gradient": first(N - RIGHT)[::-1]}), facts({"zero_gradient": first(N)})),
    ("iterations", facts(fgsm=45, pgd=50), facts(fgsm=44, pgd=50)),
    ("weaker with steps", facts(pgd_steps=55), facts(pgd_steps=56)),
    ("steps", facts(pgd_steps=40), facts(pgd_steps=39)),
    ("restarts", facts(pgd_restarts=40), facts(pgd_restarts=39)),
    ("black box", facts(square=43), facts(square=42)),
    ("black box", facts(**WHITE_BOX_46, square=43), facts(**WHITE_BOX_46, square=42)),
    ("black box", facts(transfer=43), facts(transfer=42)),
    ("black box", facts(square=43, transfer=90), facts(square=90, transfer=10)),
    ("cross-entropy", facts(apgd_ce=64), facts(apgd_ce=65)),
    ("large eps", facts(pgd_large=22), facts(pgd_large=23)),
    ("large eps", facts(pgd_large=RIGHT, grey=RIGHT), facts(pgd_large=RIGHT, grey=0)),
    ("label leaking", facts(fgsm=LEAKING), facts(fgsm="1" * (RIGHT + 4) + "0" * 4)),
    ("label leaking", facts(fgsm=RIGHT), facts(fgsm=N)),
    ("catastrophic overfitting", facts(fgsm=99, pgd=0), facts(fgsm=100, pgd=0)),
    ("catastrophic overfitting", facts(fgsm=118, pgd=16), facts(fgsm=118, pgd=15)),
]


def one(name, made):
    return {check.name: check for check in judge(made)}[name]


@pytest.mark.parametrize("name, fine, bad", CASES)
def test_where_each_rule_begins(name, fine, bad):
    passed, failed = one(name, fine), one(name, bad)
    assert passed.passed is True and failed.passed is False
    assert passed.sentence != failed.sentence
    for check in (passed, failed):
        assert check.sentence.endswith(".") and check.sentence.count("\n") == 0
        assert json.loads(json.dumps(check.figures)) == check.figures
        assert all(type(v) in (int, float) for v in check.figures.values()) and check.figures


def test_honest_facts_pass_every_rule():
    checks = judge(HONEST)
    assert [check.name for check in checks] == list(RULES) and {name for name, *_ in CASES} == set(RULES)
    assert all(check.passed is True for check in checks)


def test_facts_stay_as_they_are():
    before = copy.deepcopy(HONEST)
    judge(HONEST)
    assert before == HONEST


def test_figures_are_of_the_images_right_unattacked():
    check = one("iterations", facts(fgsm=40, pgd="1" * 50 + "0" * 70 + "1" * 8))
    assert check.figures["images"] == 10 and check.figures["of"] == RIGHT and check.figures["tolerated"] == 0.02
    assert check.figures["share"] == pytest.approx(10 / 120) and check.figures["low"] == pytest.approx(0.0459, abs=1e-4)
    assert "10 of 120 images (8.3%)" in check.sentence


def test_the_same_share_of_few_images_proves_less():
    few = facts({"n": 24, "clean": {"right": first(24, 24)}, "zero_gradient": first(2, 24)})
    many = facts({"n": 240, "clean": {"right": first(240, 240)}, "zero_gradient": first(20, 240)})
    for made in (few, many):
        n = made["n"]
        for entry in made["attacks"].values():
            entry["right"] = first(0, n)
    assert one("zero gradients", few).passed and not one("zero gradients", many).passed


def test_what_was_not_measured_is_neither_passed_nor_suspicious():
    refused = facts({"refused": "ends in a softmax", "attacks": {}, "zero_gradient": "", "probability_rows": N})
    hopeless = facts({"clean": {"right": first(0)}})
    for made in (refused, hopeless):
        checks = judge(made)
        assert {c.name for c in checks if c.passed is not None} == {"probabilities", "randomness"}
        assert all(c.sentence.startswith("Not measured") for c in checks if c.passed is None)
    assert suspicious(judge(refused)) == {"probabilities"}


def test_checks_are_frozen():
    with pytest.raises(AttributeError):
        Check("a", True, {}, "b").passed = False
