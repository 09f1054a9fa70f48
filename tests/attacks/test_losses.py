import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import APGD, PGD, AutoAttack, Cost, gradient, losses, targets
from tfadv.errors import UserError

LOGITS = tf.constant([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 1.5, 1.0]])
Y, TARGET = tf.constant([0, 2]), tf.constant([1, 3])


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "ce",
            [np.log(1 + np.exp(-2) + np.exp(-2.5) + np.exp(-4)), np.log(1 + np.exp(-1.5) + np.exp(0.5) + np.exp(-0.5))],
        ),
        ("cw", [-2.0, 0.5]),
        ("dlr", [-2 / 2.5, 0.5 / 1.0]),
        ("cw-t", [-2.0, -0.5]),
        ("dlr-t", [-2 / (3 - (0.5 - 1) / 2), -0.5 / (2 - (1 + 0) / 2)]),
    ],
)
def test_values_by_hand(name, expected):
    np.testing.assert_allclose(losses.LOSSES[name](LOGITS, Y, TARGET), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["dlr", "dlr-t"])
def test_dlr_does_not_depend_on_the_scale(name):
    loss = losses.LOSSES[name]
    np.testing.assert_allclose(loss(1e4 * LOGITS, Y, TARGET), loss(LOGITS, Y, TARGET), rtol=1e-5)


def test_margin_is_above_zero_where_wrong():
    np.testing.assert_array_equal(
        losses.margin(LOGITS, Y).numpy() > 0, gradient.is_adversarial(LOGITS, tf.cast(Y, tf.int64)).numpy()
    )


@pytest.mark.parametrize(
    "name, classes, expected",
    [
        *(("dlr", 2, "cw"), ("dlr", 3, "dlr"), ("dlr-t", 2, "cw-t"), ("dlr-t", 3, "cw-t"), ("dlr-t", 4, "dlr-t")),
        *(("ce", 2, "ce"), ("cw", 2, "cw"), ("cw-t", 2, "cw-t")),
    ],
)
def test_fallbacks_for_few_classes(name, classes, expected):
    assert losses.resolve_loss(name, classes) == expected


def test_unknown_loss():
    with pytest.raises(UserError, match="did you mean 'dlr'"):
        losses.resolve_loss("drl", 10)


@pytest.mark.parametrize("classes, fallbacks", [(2, {"dlr-t": "cw-t"}), (4, {})])
def test_the_cost_records_fallbacks(of_classes, classes, fallbacks):
    model, x, y = of_classes(classes)
    costs = Cost(), Cost(), Cost(), Cost(), Cost()
    APGD(loss="dlr-t", steps=2)(model, x, y, 0.01, cost=costs[0])
    AutoAttack(attacks=["apgd-t"], steps=2)(model, x, y, 0.01, cost=costs[1])
    AutoAttack(attacks=["apgd-ce"], steps=2)(model, x, y, 0.01, cost=costs[2])
    for i, early_stop in ((3, True), (4, False)):
        PGD(loss="dlr", steps=2, early_stop=early_stop)(model, x, y, 0.01, cost=costs[i])
    assert [cost.fallbacks for cost in costs[:3]] == [fallbacks, fallbacks, {}]
    assert [cost.fallbacks for cost in costs[3:]] == 2 * [{"dlr": "cw"} if fallbacks else {}]


def test_targets_are_other_classes(small):
    model, x, y = small
    logits = model(x).numpy()
    least = targets.choose_targets("least-likely", model, x, y).numpy()
    others = np.where(np.eye(5, dtype=bool)[y], np.inf, logits)
    np.testing.assert_array_equal(least, others.argmin(1))
    random = [targets.choose_targets("random", model, x, y, seed).numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert (random[0] != random[2]).any() and all((r != y).all() for r in random)
    assert {tuple(sorted({(a - b) % 5 for a, b in zip(random[0], y)}))} == {(1, 2, 3, 4)}


def test_most_likely_others_are_in_order_and_leave_y_out():
    np.testing.assert_array_equal(targets.most_likely_others(LOGITS, Y), [[1, 2, 3], [1, 3, 0]])
    infinite = tf.constant([[-np.inf, 0.0, 1.0]])
    np.testing.assert_array_equal(targets.most_likely_others(infinite, tf.constant([2])), [[1, 0]])
