"""Differences between records: on the same images, with their intervals, and none across different images."""

import dataclasses

import numpy as np
import pytest

from tests.report.conftest import make_record
from tests.report.test_comparison import AUTO, PGD, results  # noqa: F401 (a fixture)
from tfadv.evaluation.intervals import difference_of_counts, mean_paired_difference, paired_difference
from tfadv.evaluation.records import with_outcomes
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.differences import difference, differences_table, mean_difference, mean_gain, on_shared_images


def random_record(n, seed, share=0.5):
    return with_outcomes(make_record("m", "r", "whitebox", 0.1), np.random.default_rng(seed).random(n) < share)


def without_images(record):
    return dataclasses.replace(record, per_image=None)


def test_records_of_different_numbers_of_images_are_compared_on_those_that_both_have():
    few, many = random_record(50, 0), random_record(200, 1)
    assert difference(few, many) == paired_difference(few.per_image, many.per_image[:50])
    assert difference(many, few).value == -difference(few, many).value and difference(few, many).n == 50
    assert difference(few, without_images(many)) is None and difference(without_images(few), many) is None
    assert difference(few, None) is None and mean_difference([]) is None


def test_from_counts_there_is_a_conservative_difference_of_equally_many_images():
    a, b = random_record(200, 0), random_record(200, 1)
    found = difference(without_images(a), b)
    assert found == difference_of_counts(a.correct, b.correct, 200) and not found.paired


def test_the_mean_takes_each_image_with_all_its_outcomes():
    pairs = [(random_record(200, i), random_record(200, i + 10)) for i in range(3)]
    a, b = (np.stack([pair[i].per_image for pair in pairs]) for i in (0, 1))
    assert mean_difference([*pairs, (pairs[0][0], None)]) == mean_paired_difference(a, b)
    shorter = [(random_record(50, 20), random_record(50, 21)), *pairs]
    assert mean_difference(shorter).n == 50
    assert mean_difference([(a, without_images(b)) for a, b in shorter]) is None


def test_records_are_cut_to_their_shared_images():
    few, many = random_record(50, 0), random_record(200, 1)
    same, cut = on_shared_images([few, many])
    assert same is few and cut.n == 50 and cut.correct == many.per_image[:50].sum() == 50 * cut.accuracy
    assert cut.interval != many.interval and on_shared_images([few, without_images(many)]) is None
    assert on_shared_images([without_images(few)]) == [few]


def test_the_table_of_differences(results):  # noqa: F811
    table = differences_table(results)
    rows = {row[1:5]: row[5:] for row in table.rows}
    assert rows["nfgsm", "clean", None, "baseline"][0] == pytest.approx(-10)
    assert rows["nfgsm", "FGSM", "mean", "baseline"][0] == pytest.approx(((60 - 20) + (40 - 2)) / 2)
    assert rows["nfgsm", PGD, "0.1", "baseline"][0] == pytest.approx(35)
    assert rows["nfgsm", PGD, "0.1", AUTO][0] == pytest.approx(2)
    assert rows["baseline", PGD, "0.1", AUTO][0] == pytest.approx(1)
    assert [row for row in rows if row[0] == "baseline"] == [("baseline", PGD, "0.1", AUTO)]
    gain = mean_gain(results, "nfgsm")
    assert rows["nfgsm", "FGSM", "mean", "baseline"] == (*gain.points, "100") and gain.paired
    assert all(low <= value <= high for value, low, high, _ in rows.values()) and "counts" not in table.title
    counts = dataclasses.replace(results, records=tuple(map(without_images, results.records)))
    assert "from counts, as if the images were independent" in differences_table(counts).title


def test_pgd_less_autoattack_is_of_the_images_that_both_attacked_or_left_out(results):  # noqa: F811
    def gaps(records):
        table = differences_table(dataclasses.replace(results, records=tuple(records)))
        return [row[5:] for row in table.rows if row[4] == AUTO and row[1] == "nfgsm"]

    cut = [with_outcomes(r, r.per_image[:40]) if r.attack == AUTO else r for r in results.records]
    assert [(gap[0], gap[-1]) for gap in gaps(cut)] == [(100 * (36 - 34) / 40, "40")]
    assert gaps(map(without_images, cut)) == []


def test_the_strongest_attack_is_chosen_on_the_same_images():
    """On the first 100 images PGD leaves less, although its accuracy on 1,000 is higher."""
    images = np.arange(1000)
    base = make_record("m", "r", "whitebox", 0.1, settings={"steps": 20})
    pgd = with_outcomes(dataclasses.replace(base, attack="pgd"), (images >= 100) & (images < 500))
    auto = with_outcomes(dataclasses.replace(base, attack="autoattack"), images[:100] < 20)

    def data(*records):
        return ReportData("digits", ("a", "b"), records, (), "r")

    assert auto.accuracy < pgd.accuracy and strongest(data(pgd, auto), "m") == ("pgd", {"r": pgd})
    assert strongest(data(auto, pgd), "m")[0] == "pgd"
    assert strongest(data(without_images(auto), without_images(pgd)), "m")[0] == "pgd"  # the one on more images
    weaker = with_outcomes(dataclasses.replace(base, attack="bim"), images < 450)
    assert strongest(data(weaker, without_images(auto), pgd), "m")[0] == "pgd"
