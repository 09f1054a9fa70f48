"""Requirements on accuracies: what is read, and what intervals decide."""

import dataclasses
import math
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
        ("worst_class(accuracy)@0.1>=0.9", "write accuracy>=0.9"),
        ("worst_class(pgd)@8/255>=baseline", "is compared with a number"),
        ("worst_class(pgd,fgsm)@8/255>=0.1", "name one attack"),
        ("worst_class(bim)@8/255>=0.1", "--attacks does not name bim"),
        ("accuracy>=baseline-2", "write baseline-0.02"),
        ("accuracy>=baseline*0.9", "0.9"),
        ("accuracy>=baseline-0.02", "needs --baseline"),
        ("autoattack>=0.4", "write accuracy>=0.9"),
        (" ; ", "has no requirement"),
        ("pgd,autoattack@8/255>=0.4", "name one attack"),
        ("autoattack@0.1>=0", "above 0 and at most 1"),
        ("autoattack@0.1>=40", "above 0 and at most 1"),
        ("autoattak@0.1>=0.4", "autoattack"),
        ("autoattack@0.1>=0.4", "measured at eps 0.0313725, not at 0.1"),
        ("pgd(steps=50)@8/255>=0.4", "--attacks does not name pgd(steps=50)"),
    ],
)
def test_wrong_requirements_are_one_line(text, message):
    with pytest.raises(UserError) as raised:
        gate.check(gate.requirements(text), (EPS,), "autoattack,pgd")
    assert message in str(raised.value)


def test_sizes_of_an_attack_alone():
    given = gate.requirements("pgd(norm=l2)@0.5>=0.4; pgd@8/255>=0.4; fgsm@8/255>=0.4")
    gate.check(given, (EPS,), "pgd(norm=l2)@0.25+0.5,pgd")
    with pytest.raises(UserError, match="measured at eps 0.25,0.5, not at 0.0313725"):
        gate.check(gate.requirements("pgd(norm=l2)@8/255>=0.4"), (EPS,), "pgd(norm=l2)@0.25+0.5,pgd")
    with pytest.raises(
        UserError, match="no attack of --attacks is in L∞ at the sizes"
    ):  # over one attack of the run's sizes
        gate.check(gate.requirements("worst@8/255>=0.4"), (EPS,), "pgd@0.1")


@pytest.mark.parametrize("attack", ["fog", "corruptions", "worst_class(spatial)"])
def test_attacks_without_eps_are_refused(attack):
    with pytest.raises(UserError, match="has no eps, and a requirement names one"):
        gate.check(gate.requirements(f"{attack}@0.03>=0.5"), [0.03], "fog,corruptions,spatial")


def test_the_worst_case_needs_an_attack_with_eps():
    with pytest.raises(UserError, match="no attack of --attacks is in L∞ at the sizes of --epsilons"):
        gate.check(gate.requirements("worst@0.03>=0.5"), [0.03], "spatial")


def test_the_worst_case_is_in_linf():
    wanted = gate.requirements("worst@8/255>=0.4")
    with pytest.raises(UserError, match="no attack of --attacks is in L∞"):
        gate.check(wanted, (EPS,), "autoattack(norm=l2),pgd(norm=l1)")
    gate.check(wanted, (EPS,), "autoattack(norm=l2),pgd")
    of_l2 = worst_case_records(MODEL, [EPS], rows(90, 100), ["autoattack(norm=l2)"])
    assert gate.decide(wanted[0], "mine", of_l2).verdict == "undecided"


def test_the_worst_case_needs_attacks():
    with pytest.raises(UserError, match="no attack of --attacks is in L∞ at the sizes of --epsilons"):
        gate.check(gate.requirements("worst@8/255>=0.4"), (EPS,), "")


@pytest.mark.parametrize(
    "text, options, verdict, reason",
    [
        ("accuracy>=0.9", {}, "passed", "95.0% of 1,000 images (93.5% to 96.2%)"),
        ("accuracy>=0.97", {}, "failed", "95.0% of 1,000 images"),
        ("accuracy>=0.94", {}, "undecided", "about 2,167 images would decide"),
        ("accuracy>=0.95", {}, "undecided", "more images may decide"),
        ("autoattack@8/255>=0.4", {}, "passed", "45.0% of 1,000 images (41.9% to 48.1%)"),
        ("autoattack@8/255>=0.49", {}, "failed", "45.0% of 1,000 images"),
        ("autoattack@8/255>=0.43", {}, "undecided", "about 2,354 images would decide"),
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
        p, of = correct / n, least * (1 - least)
        assert abs(p - least) >= 1.959 * math.sqrt(of / more)  # where the score interval excludes `least`
        assert more == n + 1 or abs(p - least) <= 1.961 * math.sqrt(of / (more - 1))


def test_requirements_about_classes_and_a_baseline_are_read():
    text = "worst_class(pgd(steps=3))@8/255>=0.1; worst_class(accuracy)>=0.8; fgsm@8/255 >= baseline - 0.02"
    of_class, clean, relative = gate.requirements(f"{text}; accuracy>=baseline+1/100")[:3]
    assert (of_class.attack, of_class.eps, of_class.of_worst_class) == ("pgd(steps=3)", EPS, True)
    assert (clean.attack, clean.eps, clean.of_worst_class, clean.relative) == ("", None, True, False)
    assert (relative.attack, relative.least, relative.relative) == ("fgsm", -0.02, True)
    assert gate.requirements("accuracy>=baseline+1/100")[0].least == 0.01
    gate.check([relative], (EPS,), "", "old/results.json")


def of_classes(text, correct, n, names="abcdefghij", **options):
    """The decision about classes with numbers of images and of those classified correctly, in turn."""
    labels = np.repeat(np.arange(len(n)), n)
    right = np.concatenate([np.arange(of) < c for c, of in zip(correct, n)])
    cost = {"gradients": 1, "forwards": 1}
    records = attack_records(MODEL, [EPS], right[None], "autoattack", {}, cost)
    (requirement,) = gate.requirements(text)
    more = np.concatenate([labels, labels])  # the data set has more test images than were attacked
    return gate.decide(requirement, "mine", records, classes=(names[: len(n)], more), **options)


def simultaneous(correct, n, classes):
    """Wilson's interval with Bonferroni's correction, from its closed form."""
    z = {2: 2.241402727604947, 3: 2.393979800185464}[classes]
    p, square = correct / n, z * z / n
    half = math.sqrt(square * (p * (1 - p) + square / 4)) / (1 + square)
    middle = (p + square / 2) / (1 + square)
    return middle - half, middle + half


def test_the_worst_class_decides():
    of = "worst_class(autoattack)@8/255>="
    low, high = simultaneous(60, 100, 3)
    passed = of_classes(of + f"{low - 1e-6}", [90, 60, 80], [100, 100, 100])
    assert passed.verdict == "passed" and passed.reason.startswith(f"class b, 60.0% of 100 images ({low:.1%} to ")
    assert "as the worst of 3 classes" in passed.reason
    assert of_classes(of + f"{low + 1e-6}", [90, 60, 80], [100, 100, 100]).verdict == "undecided"
    assert of_classes(of + f"{high - 1e-6}", [90, 60, 80], [100, 100, 100]).verdict == "undecided"
    failed = of_classes(of + f"{high + 1e-6}", [90, 60, 80], [100, 100, 100])
    assert failed.verdict == "failed" and failed.reason.startswith("class b, 60.0% of 100")
    # A class of few images, all of them right, stands in the way of a pass and of nothing else.
    few = of_classes(of + "0.5", [90, 4], [100, 4])
    assert few.verdict == "undecided" and few.reason.startswith("class b, 100.0% of 4 images")
    assert of_classes(of + "0.95", [60, 4], [100, 4]).reason.startswith("class a, 60.0%")
    assert of_classes(of + "0.1", [90, 60], [100, 100], suspicious=1).verdict == "undecided"
    assert of_classes(of + "0.1", [9, 0], [10, 0]).reason == "none of the 10 images is of class b"
    with_margin = of_classes("worst_class(worst)@8/255>=0.1", [9, 9], [10, 10])
    assert "same number of images" in with_margin.reason


@pytest.mark.parametrize(
    "correct, n, least, factor",
    [
        ([90, 65], [100, 100], 0.6, None),  # both come to lie above it
        ([90, 56], [100, 100], 0.6, None),  # one comes to lie below it
        ([3, 650], [4, 1000], 0.6, None),  # the class of few images decides
        ([62, 56], [100, 100], 0.6, None),  # the one that comes to lie below it decides before the other
        ([90, 60], [100, 100], 0.6, "more images may decide"),
    ],
)
def test_how_many_images_decide_about_the_worst_class(correct, n, least, factor):
    text = f"worst_class(autoattack)@8/255>={least}"
    reason = of_classes(text, correct, n).reason
    if factor:
        assert factor in reason
        return
    more = int(reason.split("about ")[1].split()[0].replace(",", ""))

    def verdict(total):
        times = total / sum(n)
        sizes = [round(of * times) for of in n]
        return of_classes(text, [round(c / of * size) for c, of, size in zip(correct, n, sizes)], sizes).verdict

    assert verdict(round(1.1 * more)) != "undecided" and verdict(round(0.9 * more)) == "undecided"


def compared(old, new, least, *, paired=True, attack="autoattack", names=("mine",), suspicious=0, **fields):
    """The decision about bool (N,) of a new model beside those of an old one."""
    cost = {"gradients": 1, "forwards": 1}
    (now,) = attack_records(MODEL, [EPS], new[None], attack, {}, cost)
    before = []
    for name in names:
        (record,) = attack_records(dataclasses.replace(MODEL, model=name), [EPS], old[None], attack, {}, cost)
        before.append(dataclasses.replace(record, **fields, **({} if paired else {"per_image": None})))
    (requirement,) = gate.requirements(f"{attack}@8/255>=baseline{least}")
    return gate.decide(requirement, "mine", [now], suspicious, baseline=before)


def test_a_baseline_decides_image_by_image():
    n = 1000
    old = np.arange(n) < 500
    new = (np.arange(n) < 490) | (np.arange(n) >= 998)  # 10 lost, 2 won: -0.8 points
    found = compared(old, new, "-0.02")
    assert found.verdict == "passed" and "-0.8 points (" in found.reason and "the same 1,000 images" in found.reason
    assert "49.2% of 1,000 images, 50.0% of 1,000 in the baseline" in found.reason
    counts = compared(old, new, "-0.02", paired=False)
    assert counts.verdict == "undecided" and "as if all images were different" in counts.reason
    assert compared(old, new, "-0.0001").verdict == "failed" and compared(old, new, "+0.1").verdict == "failed"
    undecided = compared(old, new, "-0.01")
    more = int(undecided.reason.split("about ")[1].split()[0].replace(",", ""))
    times = round(1.1 * more / n)
    assert compared(np.repeat(old, times), np.repeat(new, times), "-0.01").verdict == "passed"
    assert "+0.0 points (" in compared(old[:400], new, "-0.02").reason  # all of the first 400 are right
    assert "the same 400 images" in compared(old[:400], new, "-0.02").reason
    assert compared(old, old, "").verdict == "undecided" and compared(old, ~old, "-0.2", attack="pgd").reason
    # A weak attack, and a sign of masked gradients, pass nothing.
    assert "may find more" in compared(old, new, "-0.02", attack="pgd").reason
    assert compared(old, new, "-0.02", suspicious=1).verdict == "undecided"
    assert compared(old, new, "-0.0001", attack="pgd").verdict == "failed"


def test_what_the_baseline_is_compared_with():
    old = np.arange(1000) < 500
    assert compared(old, old, "-0.05", names=("mine", "other")).verdict == "passed"
    assert compared(old, old, "-0.05", names=("v1",)).verdict == "passed"  # the only one
    several = compared(old, old, "-0.05", names=("v1", "v2"))
    assert several.verdict == "undecided" and "none is called mine/original" in several.reason
    assert "other settings" in compared(old, old, "-0.05", settings={"steps": 3}).reason
    assert "no such accuracy" in compared(old, old, "-0.05", eps=0.5).reason


def test_exit_codes_and_files():
    decisions = [decided("accuracy>=0.9"), decided("accuracy>=0.94"), decided("accuracy>=0.97")]
    assert [gate.exit_code(decisions[:k]) for k in range(4)] == [0, 0, 2, 1]
    suite = ElementTree.fromstring(gate.junit(decisions))
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("3", "1", "1")
    assert [[child.tag for child in case] for case in suite] == [["system-out"], ["error"], ["failure"]]
    table = gate.markdown(decisions)
    assert len(table.splitlines()) == 5 and "| failed | mine | `accuracy>=0.97` |" in table
