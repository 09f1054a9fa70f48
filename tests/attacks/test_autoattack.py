import numpy as np
import pytest

from tests.attacks.conftest import is_right
from tfadv.attacks import APGD, FAB, AutoAttack, Cost, Square
from tfadv.attacks.autoattack import STANDARD

PARTS = {
    "apgd-ce": lambda norm: APGD(steps=8, norm=norm, restarts=5 if norm == "l1" else 1),
    "apgd-t": lambda norm: APGD(steps=8, loss="dlr-t", norm=norm),
    "fab-t": lambda norm: FAB(steps=8, targets=9, norm=norm),
    "square": lambda norm: Square(steps=40, norm=norm),
}


@pytest.mark.parametrize(
    "norm, sizes",
    [
        ("linf", [0.02, 0.01]),
        pytest.param("l2", [0.1, 0.05], marks=pytest.mark.long),
        pytest.param("l1", [0.5, 0.25], marks=pytest.mark.long),
    ],
)
def test_is_the_worst_case_of_its_parts_per_image(small, norm, sizes):
    model, x, y = small
    whole = AutoAttack(norm=norm, steps=8, queries=40)(model, x, y, sizes, batch_size=9)
    parts = [attack(norm)(model, x, y, sizes) for attack in PARTS.values()]
    for k in range(2):
        each = [is_right(model, part[k], y) for part in parts]
        np.testing.assert_array_equal(is_right(model, whole[k], y), np.logical_and.reduce(each))
        assert len({tuple(one) for one in each}) > 1  # they do differ


def test_standard_settings_are_those_of_the_paper():
    assert STANDARD == ("apgd-ce", "apgd-t", "fab-t", "square")
    defaults = AutoAttack().settings()
    assert [defaults[k] for k in ("steps", "restarts", "targets", "queries")] == [100, 1, 9, 5000]
    assert [AutoAttack(norm="l1").part(name) for name in STANDARD] == [
        APGD(norm="l1", restarts=5),
        APGD(norm="l1", loss="dlr-t", targets=5),
        FAB(norm="l1", targets=9),
        Square(norm="l1"),
    ]


def test_only_remaining_images_go_on_and_the_cost_counts_them(small):
    model, x, y = small
    first, both = Cost(), Cost()
    AutoAttack(steps=8, attacks=["apgd-ce"])(model, x, y, [0.02, 0.01], cost=first)
    attack = AutoAttack(steps=8, queries=50, attacks=["apgd-ce", "square"])
    images = attack(model, x, y, [0.02, 0.01], cost=both)
    left = [int(is_right(model, m, y).sum()) for m in images]
    assert both.remaining["square"] == left and both.remaining["apgd-ce"] == first.remaining["apgd-ce"]
    assert both.forwards - first.forwards <= 50 * sum(first.remaining["apgd-ce"])
    assert both.gradients == first.gradients


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(small, batch_size):
    model, x, y = small
    settings = dict(steps=8, queries=20)
    a, b = (AutoAttack(**settings)(model, x[:12], y[:12], 0.02, batch_size=n) for n in (batch_size, 5))
    np.testing.assert_array_equal(is_right(model, a, y[:12]), is_right(model, b, y[:12]))


@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_runs_once_for_all_eps(small, name):
    model, x, y = small
    one, two = Cost(), Cost()
    AutoAttack(steps=8, attacks=[name])(model, x, y, 0.005, cost=one)
    AutoAttack(steps=8, attacks=[name])(model, x, y, [0.005, 0.02], cost=two)
    assert one.gradients == two.gradients > 0
    assert two.remaining[name][1] < two.remaining[name][0]


def test_fab_starts_within_half_of_the_largest_eps(small):
    """As FAB itself: then it finds the same images."""
    model, x, y = small
    eps = [0.3, 0.02, 0.0001]
    alone, part = FAB(steps=2, restarts=3), AutoAttack(steps=2, restarts=3, attacks=["fab"])
    np.testing.assert_allclose(part(model, x, y, eps), alone(model, x, y, eps), atol=1e-6)
    assert part.revision == 1 and AutoAttack().revision == AutoAttack(restarts=3, attacks=["square"]).revision == 0


def test_no_image_left_to_attack(small):
    model, x, y = small
    wrong = (y + 1) % 5
    np.testing.assert_array_equal(AutoAttack()(model, x[:3], wrong[:3], 0.1), x[:3])
