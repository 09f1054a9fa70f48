import numpy as np
import pytest

from tfadv.attacks import Cost, apgd, autoattack, fab, square
from tfadv.attacks.autoattack import STANDARD

PARTS = {
    "apgd-ce": lambda *args, **norm: apgd(*args, steps=8, **norm),
    "apgd-t": lambda *args, **norm: apgd(*args, steps=8, loss="dlr-t", **norm),
    "fab": lambda *args, **norm: fab(*args, steps=8, **norm),
    "square": lambda *args, **norm: square(*args, steps=40, **norm),
}


def robust(model, made, y):
    return np.argmax(model(made), axis=1) == y


@pytest.mark.parametrize("norm, sizes", [("linf", [0.02, 0.01]), ("l2", [0.1, 0.05])])
def test_is_the_worst_of_its_parts_for_each_image(small, norm, sizes):
    model, x, y = small
    whole = autoattack(model, x, y, sizes, norm=norm, steps=8, queries=40, batch_size=9)
    parts = [attack(model, x, y, sizes, norm=norm) for attack in PARTS.values()]
    for k in range(2):
        each = [robust(model, part[k], y) for part in parts]
        np.testing.assert_array_equal(robust(model, whole[k], y), np.logical_and.reduce(each))
        assert len({tuple(one) for one in each}) > 1  # they do differ


def test_standard_settings_are_the_papers():
    assert STANDARD == ("apgd-ce", "apgd-t", "fab", "square")
    defaults = autoattack.__kwdefaults__
    assert [defaults[k] for k in ("steps", "restarts", "targets", "queries")] == [100, 1, 9, 5000]


def test_only_the_unbroken_go_on_and_the_caller_sees_how_many(small):
    model, x, y = small
    first, both = Cost(), Cost()
    autoattack(model, x, y, [0.02, 0.01], steps=8, attacks=["apgd-ce"], cost=first)
    made = autoattack(model, x, y, [0.02, 0.01], steps=8, queries=50, attacks=["apgd-ce", "square"], cost=both)
    left = [int(robust(model, m, y).sum()) for m in made]
    assert both.unbroken["square"] == left and both.unbroken["apgd-ce"] == first.unbroken["apgd-ce"]
    assert both.forwards - first.forwards <= 50 * sum(first.unbroken["apgd-ce"])
    assert both.gradients == first.gradients


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(small, batch_size):
    model, x, y = small
    settings = dict(steps=8, queries=20)
    a, b = (autoattack(model, x[:12], y[:12], 0.02, batch_size=n, **settings) for n in (batch_size, 5))
    np.testing.assert_array_equal(robust(model, a, y[:12]), robust(model, b, y[:12]))


def test_fab_runs_once_for_all_eps(small):
    model, x, y = small
    one, two = Cost(), Cost()
    autoattack(model, x, y, 0.005, steps=8, attacks=["fab"], cost=one)
    autoattack(model, x, y, [0.005, 0.02], steps=8, attacks=["fab"], cost=two)
    assert one.gradients == two.gradients > 0
    assert two.unbroken["fab"][1] < two.unbroken["fab"][0]


def test_no_image_is_no_trouble(small):
    model, x, y = small
    wrong = (y + 1) % 5
    np.testing.assert_array_equal(autoattack(model, x[:3], wrong[:3], 0.1), x[:3])
