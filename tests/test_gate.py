"""Requirements on accuracies: what is read, and what intervals decide."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfadv import gate
from tfadv.errors import UserError
from tfadv.evaluation.records import ModelId, attack_records, fgsm_records, wilson_interval, worst_case_records

MODEL = ModelId("digits", "mine", "original", 0)
EPS = 8 / 255
TEXT = "accuracy>=0.9; autoattack@8/255>=0.4 ;worst@0.03137254901960784 >= 0.4"


def rows(correct, n):
    return np.arange(n)[None] < correct


def results(attack="autoattack", correct=450, n=1000, clean=950, label=""):
    """Records of clean images, of FGSM, of an attack and of the worst case."""
    cost = {"gradients": 1, "forwards": 1}
    found = fgsm_records(MODEL, [EPS], rows(clean, n)[0], rows(700, n))
    found += attack_records(MODEL, [EPS], rows(correct, n), attack, {}, cost, label or attack)
    return found + worst_case_records(MODEL, [EPS], rows(correct, n), ["fgsm", label or attack])


def decided(text, suspicious=0, **options):
    (requirement,) = gate.requirements(text)
    return gate.decide(requirement, "mine", results(**options), suspicious)


def test_requirements_are_read():
    clean, attacked, worst = gate.requirements(TEXT)
    assert clean == gate.Requirement("accuracy>=0.9", "", None, 0.9)
    assert (attacked.attack, attacked.eps, attacked.least) == ("autoattack", EPS, 0.4)
    assert (worst.attack, worst.eps, worst.least) == ("worst", EPS, 0.4)
    assert gate.requirements("") == []
    (given,) = gate.requirements("pgd(steps=20,restarts=2)@0.1>=0.3")
    assert given.attack == "pgd(steps=20,restarts=2)"
    gate.check([clean, attacked, worst], (0.01, EPS), "pgd,autoattack")


@pytest.mark.parametrize(
    "text, message",
    [
        ("accuracy", "write accuracy>=0.9"),
        ("accuracy@0.1>=0.9", "write accuracy>=0.9"),
        ("autoattack>=0.4", "write accuracy>=0.9"),
        (" ; ", "has no requirement"),
        ("pgd,autoattack@8/255>=0.4", "name one attack"),
        ("autoattack@0.1>=0", "above 0 and at most 1"),
        ("autoattack@0.1>=40", "above 0 and at most 1"),
        ("autoattak@0.1>=0.4", "autoattack"),
        ("autoattack@0.1>=0.4", "has no 0.1"),
        ("pgd(steps=50)@8/255>=0.4", "--attacks does not name pgd(steps=50)"),
    ],
)
def test_wrong_requirements_are_one_line(text, message):
    with pytest.raises(UserError) as raised:
        gate.check(gate.requirements(text), (EPS,), "autoattack,pgd")
    assert message in str(raised.value)


def test_the_worst_case_needs_attacks():
    with pytest.raises(UserError, match="does not name worst"):
        gate.check(gate.requirements("worst@8/255>=0.4"), (EPS,), "")


@pytest.mark.parametrize(
    "text, options, verdict, reason",
    [
        ("accuracy>=0.9", {}, "passed", "95.0% of 1,000 images (93.5% to 96.2%)"),
        ("accuracy>=0.97", {}, "failed", "95.0% of 1,000 images"),
        ("accuracy>=0.94", {}, "undecided", "about 1,825 images would decide"),
        ("accuracy>=0.95", {}, "undecided", "more images may decide"),
        ("autoattack@8/255>=0.4", {}, "passed", "45.0% of 1,000 images (41.9% to 48.1%)"),
        ("autoattack@8/255>=0.49", {}, "failed", "45.0% of 1,000 images"),
        ("autoattack@8/255>=0.43", {}, "undecided", "about 2,377 images would decide"),
        ("autoattack@8/255>=0.4", {"suspicious": 2}, "undecided", "2 checks for gradient masking are suspicious"),
        ("accuracy>=0.9", {"suspicious": 2}, "passed", "95.0%"),
        ("pgd@8/255>=0.4", {"attack": "pgd"}, "undecided", "but AutoAttack with its defaults may find more"),
        ("pgd@8/255>=0.6", {"attack": "pgd"}, "failed", "45.0%"),
        ("fgsm@8/255>=0.5", {}, "undecided", "but AutoAttack with its defaults may find more"),
        ("worst@8/255>=0.4", {}, "passed", "45.0%"),
        (
            "autoattack(steps=20)@8/255>=0.4",
            {"attack": "autoattack", "label": "autoattack(steps=20)"},
            "undecided",
            "may find more",
        ),
        (
            "autoattack(attacks=square)@8/255>=0.4",
            {"attack": "autoattack", "label": "autoattack(attacks=square)"},
            "undecided",
            "may find more",
        ),
        ("worst@8/255>=0.4", {"attack": "pgd"}, "undecided", "but AutoAttack with its defaults may find more"),
        ("autoattack@8/255>=0.4", {"attack": "pgd"}, "undecided", "it was not measured"),
    ],
)
def test_intervals_decide(text, options, verdict, reason):
    decision = decided(text, **options)
    assert decision.verdict == verdict and reason in decision.reason, decision
    assert str(decision).startswith(f"{verdict}: mine, {text}: ")


@given(st.integers(5, 3000), st.floats(0, 1), st.floats(0.01, 1))
def test_more_images_of_the_same_accuracy_decide(n, share, least):
    correct = round(share * n)
    requirement = gate.Requirement("accuracy", "", None, least)
    records = fgsm_records(MODEL, [EPS], rows(correct, n)[0], rows(0, n))
    decision = gate.decide(requirement, "mine", records)
    low, high = wilson_interval(correct, n)
    assert (decision.verdict == "passed") == (low >= least) and (decision.verdict == "failed") == (high < least)
    if "about " in decision.reason:
        more = int(decision.reason.split("about ")[1].split()[0].replace(",", ""))
        assert more > n


def test_exit_codes_and_files():
    decisions = [decided("accuracy>=0.9"), decided("accuracy>=0.94"), decided("accuracy>=0.97")]
    assert [gate.exit_code(decisions[:k]) for k in range(4)] == [0, 0, 2, 1]
    suite = ElementTree.fromstring(gate.junit(decisions))
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("3", "1", "1")
    assert [[child.tag for child in case] for case in suite] == [["system-out"], ["error"], ["failure"]]
    table = gate.markdown(decisions)
    assert len(table.splitlines()) == 5 and "| failed | mine | `accuracy>=0.97` |" in table
