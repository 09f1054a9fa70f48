"""The table of all threats."""

import dataclasses

import numpy as np
import pytest

from tests.report.conftest import make_record
from tfadv.evaluation.certificate import Certificate
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.threats import threats_table


def under(attack, eps, accuracy, defense="baseline", **settings):
    label = f"{attack}(norm={settings['norm']})" if "norm" in settings else ""
    settings = {"steps": 20} | settings
    return make_record("m", defense, "whitebox", eps, accuracy, attack=attack, settings=settings, label=label)


def records(defense, gain):
    clean = make_record("m", defense, "clean", accuracy=0.9)
    fgsm = [make_record("m", defense, "whitebox", eps, 0.3 + gain) for eps in (0.01, 0.03)]
    attacks = [under("pgd", eps, 0.2 + gain, defense) for eps in (0.01, 0.03)]
    own = [under("pgd", eps, 0.5 + gain, defense, norm="l2") for eps in (0.25, 0.5)]
    own += [under("sparse-rs", 24.0, 0.3 + gain, defense, norm="pixels")]
    sets = [
        dataclasses.replace(under("corruptions", None, 0.6 + share, defense, corruption="fog", severity=s), label=label)
        for s, share, label in ((1, 0.2, "fog(severity=1)"), (5, 0.0, "fog(severity=5)"))
    ]
    space = make_record("m", defense, "whitebox", None, 0.4, attack="spatial", settings={"size": 1})
    return [clean, *fgsm, *attacks, *own, *sets, space]


@pytest.fixture
def data():
    found = (*records("baseline", 0.0), *records("nfgsm", 0.1))
    return ReportData("digits", ("a", "b"), found, (), "baseline")


def test_a_row_for_each_threat(data):
    table = threats_table(data)
    assert table.head == ("threat", "attack", "images", "baseline", "nfgsm")
    shown = {row[:2]: [float(cell.split(" ")[0]) for cell in row[3:]] for row in table.rows}
    assert {row[2] for row in table.rows} == {"100"} and list(shown) == [
        ("none", ""),
        ("L∞ 0.03", "FGSM"),
        ("L∞ 0.03", "pgd"),
        ("L2 0.25", "pgd(norm=l2)"),
        ("L2 0.5", "pgd(norm=l2)"),
        ("L0 (pixels) 24", "sparse-rs(norm=pixels)"),
        ("corruption", "corruptions"),
        ("rotation and shift", "spatial"),
    ]
    assert shown["none", ""] == [90, 90] and shown["L∞ 0.03", "pgd"] == [20, 30]
    assert shown["L2 0.5", "pgd(norm=l2)"] == [50, 60] and shown["corruption", "corruptions"] == [70, 70]


def test_sizes_of_one_attack_are_none_of_the_run(data):
    assert data.epsilons == (0.01, 0.03)
    attack, robust = strongest(data, "m")
    assert (attack, {name: record.eps for name, record in robust.items()}) == ("pgd", {"baseline": 0.03, "nfgsm": 0.03})


def test_certified_accuracy_is_a_threat_of_its_own(data):
    counts = np.array([[1000, 0], [1000, 600], [1000, 990], [1000, 1000]])
    found = Certificate(0.25, 1000, 100, 0.001, np.zeros(4, int), np.zeros(4, int), counts)
    assert [radius >= 0.25 for radius in found.radius] == [False, False, True, True]
    row = threats_table(dataclasses.replace(data, certificates={"m/nfgsm": found})).rows[-1]
    assert row[:4] == ("any within L2 0.25", "certified", "4", None) and row[4].startswith("50.0 [")


def test_a_size_of_its_own_may_be_one_of_the_run(data):
    own = under("pgd", 0.01, 0.7, norm="l2")
    table = threats_table(dataclasses.replace(data, records=(*data.records, own)))
    assert ("L2 0.01", "pgd(norm=l2)") in [row[:2] for row in table.rows]


def corrupted(data, *records):
    table = threats_table(dataclasses.replace(data, records=(*data.records, *records)))
    return {row[:2]: row[3] for row in table.rows}["corruption", "corruptions"]


def test_the_same_set_of_two_attacks_counts_once(data):
    again = next(record for record in data.records if record.label == "fog(severity=1)")
    assert corrupted(data, again) == corrupted(data) and corrupted(data).startswith("70.0 [")


def test_sets_of_different_images_have_no_interval(data):
    snow = dataclasses.replace(under("corruptions", None, 0.1, corruption="snow"), label="snow", n=50)
    assert corrupted(data, dataclasses.replace(snow, per_image=snow.per_image[:50])) == pytest.approx(50)


def test_attacks_of_one_norm_alone_need_no_table(data):
    one = [record for record in data.records if record.eps in (None, 0.01, 0.03) and not record.settings]
    assert threats_table(dataclasses.replace(data, records=tuple(one))) is None
