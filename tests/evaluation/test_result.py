import dataclasses
import json

import numpy as np
import pytest

from tfadv.evaluation.records import wilson_interval
from tfadv.evaluation.result import CostSummary, Result, concatenate, worst_case
from tfadv.pipeline.results import load_result, save_result

CLEAN = np.array([True] * 8 + [False] * 2)
ADVERSARIAL = np.array([[True] * 6 + [False] * 3 + [True], [True] * 3 + [False] * 7])


def result(eps=(0.1, 0.2), clean=CLEAN, adversarial=ADVERSARIAL, attack="pgd", **cost):
    return Result(attack, {"steps": 10}, eps, clean, adversarial, CostSummary(**cost))


def test_an_image_that_is_misclassified_without_an_attack_is_not_robust():
    robust = result().robust
    assert robust.shape == (2, 10) and robust.sum(axis=1).tolist() == [
        6,
        3,
    ]  # the last image is only adversarially correct
    assert result().n == 10 and result().clean_accuracy == 0.8


def test_several_eps_give_a_tuple():
    assert result().robust_accuracy == (0.6, 0.3)
    assert result().interval == (wilson_interval(6, 10), wilson_interval(3, 10))
    one_of_a_list = result(eps=(0.1,), adversarial=ADVERSARIAL[:1])
    assert one_of_a_list.robust_accuracy == (0.6,) and one_of_a_list.interval == (wilson_interval(6, 10),)


def test_one_eps_gives_one_number():
    single = result(eps=0.1, adversarial=ADVERSARIAL[:1])
    assert single.robust_accuracy == 0.6 and single.interval == wilson_interval(6, 10)
    low, high = single.interval
    assert 0 < low < 0.6 < high < 1


def test_summary():
    lines = result().summary().splitlines()
    assert lines[0] == "clean: 80.0% of 10 images"
    assert lines[1].startswith("pgd, eps 0.1: 60.0% robust (95% interval 3") and lines[2].startswith(
        "pgd, eps 0.2: 30.0%"
    )
    other = dataclasses.replace(result(), settings={"norm": "l2"}).summary().splitlines()
    assert other[1].startswith("pgd, eps 0.1 in L2: 60.0%")
    pixels = dataclasses.replace(result(), settings={"norm": "pixels"}, eps=(1.0, 2.0)).summary()
    assert "pgd, eps 1 pixel: " in pixels and "pgd, eps 2 pixels: " in pixels
    assert len(result(eps=0.1, adversarial=ADVERSARIAL[:1]).summary().splitlines()) == 2
    clean = Result(None, {}, (), CLEAN, np.zeros((0, 10), bool))
    assert clean.summary() == "clean: 80.0% of 10 images" and clean.robust_accuracy == ()


def test_concatenate():
    cost = dict(gradients=10, forwards=5, seconds=1.5, remaining={"square": [2, 1]})
    first = result(**cost, fallbacks={"dlr": "cw"})
    second = result(clean=CLEAN[:4], adversarial=ADVERSARIAL[:, :4], **cost)
    joined = concatenate([first, second])
    assert joined.n == 14 and joined.robust.sum(axis=1).tolist() == [6 + 4, 3 + 3]
    np.testing.assert_array_equal(joined.robust[:, :10], first.robust)
    assert joined.cost == CostSummary(20, 10, 3.0, {"dlr": "cw"}, {"square": [4, 2]})
    assert (joined.attack, joined.settings, joined.eps) == ("pgd", {"steps": 10}, (0.1, 0.2))
    assert concatenate([first]).cost == first.cost


def test_worst_case():
    other = result(adversarial=ADVERSARIAL[:, ::-1], attack="square", gradients=7)
    worst = worst_case([result(), other])
    np.testing.assert_array_equal(worst.robust, result().robust & other.robust)
    assert worst.robust_accuracy == (0.3, 0.0)
    assert worst.attack == "worst" and worst.settings == {"attacks": ["pgd", "square"]} and worst.cost.gradients == 0


@pytest.mark.parametrize(
    "other",
    [
        result(eps=(0.1, 0.3)),
        result(clean=CLEAN[:5], adversarial=ADVERSARIAL[:, :5]),
        result(eps=0.1, adversarial=ADVERSARIAL[:1]),
    ],
)
def test_worst_case_needs_the_same_images_and_eps(other):
    with pytest.raises(ValueError, match="same images at the same eps"):
        worst_case([result(), other])


def test_sets_of_corrupted_images_have_no_worst_case():
    sets = dataclasses.replace(result(), sets=(("fog", 1), ("fog", 2)), eps=None)
    with pytest.raises(ValueError, match="sets of corrupted images"):
        worst_case([sets, result()])


@pytest.mark.parametrize("eps, rows", [(0.1, 1), ((0.1,), 1), ((0.1, 0.2), 2)])
def test_results_on_the_disk(tmp_path, eps, rows):
    cost = dict(gradients=10, seconds=1.5, fallbacks={"dlr": "cw"}, remaining={"square": [2]})
    saved = result(eps=eps, adversarial=ADVERSARIAL[:rows], **cost)
    save_result(tmp_path, saved, "some_")
    loaded = load_result(tmp_path, "some_")
    np.testing.assert_array_equal(loaded.robust, saved.robust)
    assert loaded.clean_correct.dtype == bool and loaded.eps == eps and loaded.cost == saved.cost
    assert loaded.robust_accuracy == saved.robust_accuracy and loaded.summary() == saved.summary()
    assert json.loads((tmp_path / "some_result.json").read_text())["settings"] == {"steps": 10}
