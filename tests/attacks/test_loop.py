"""The loops, with steps that count down instead of attacking."""

import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import survivors


def images(n):
    return tf.reshape(tf.range(n, dtype=tf.float32), (-1, 1, 1, 1))


def countdown(i, x, left):
    """An image is done when its number of steps is used up, and then it is 100 more per step taken."""
    x, left = x + 100, left - 1
    return (x, left), x, loop.score(left <= 0), left <= 0


def last(x, left):
    return -x, loop.score(left < -99)


@pytest.mark.parametrize("compact", [True, False])
def test_each_image_leaves_when_it_is_done(compact):
    left = tf.constant([3, 1, 9, 2])
    found, scores, visits, ends = loop.steps(
        *(countdown, last, (images(4), left), 4, tf.range(4, dtype=tf.int64), tf.ones(4, tf.bool)), compact=compact
    )
    np.testing.assert_array_equal(tf.squeeze(found), [300, 101, -402, 203])
    np.testing.assert_array_equal(scores, [-np.inf, -np.inf, np.inf, -np.inf])
    assert (visits, ends) == ((4 + 3 + 2 + 1, 1) if compact else (16, 4))


@pytest.mark.parametrize("compact", [True, False])
def test_the_loop_ends_with_the_last_image(compact):
    left = tf.constant([2, 1])
    *_, visits, ends = loop.steps(
        *(countdown, last, (images(2), left), 1000, tf.range(2, dtype=tf.int64), tf.ones(2, tf.bool)), compact=compact
    )
    assert (visits, ends) == ((3, 0) if compact else (4, 2))


def test_copies_of_an_image_leave_together():
    left, owners = tf.constant([5, 1, 5, 4]), tf.constant([7, 7, 2, 2], tf.int64)
    found, scores, visits, _ = loop.steps(
        *(countdown, last, (images(4), left), 9, owners, tf.ones(4, tf.bool)), compact=True
    )
    np.testing.assert_array_equal(scores, [np.inf, -np.inf, np.inf, -np.inf])
    assert visits == 4 + 2 * 3 and found[3, 0, 0, 0] == 403


@pytest.mark.parametrize("compact, capacity, calls", [(True, 1, 6), (True, 100, 1), (True, 9, 3), (False, 100, 6)])
def test_rounds_keep_the_best_of_each_and_leave_the_rest(compact, capacity, calls):
    """Image i is broken in round 2 i; image 3 is not to be attacked; image 4 never breaks and is best in round 1."""
    seen = []

    def attempt(r, rows, alive):
        seen.append(rows.numpy()[alive.numpy()].tolist())
        assert (tf.size(r) == tf.size(rows)) and set(r.numpy()) <= set(range(6))
        broken = (2 * tf.cast(rows, tf.int32) == r) & (rows < 4)
        score = tf.where(broken, -np.inf, tf.where(rows == 4, tf.abs(tf.cast(r, tf.float32) - 1.0), np.inf))
        return 10.0 * tf.cast(r, tf.float32)[:, None, None, None] + 1, score, tf.size(rows), 1

    active = tf.constant([True, True, True, False, True])
    found, scores, gradients, forwards = loop.rounds(
        attempt, 6, images(5), active, loop.BROKEN, capacity, compact=compact
    )
    np.testing.assert_array_equal(tf.squeeze(found), [1, 21, 41, 3, 11])
    np.testing.assert_array_equal(scores, [-np.inf, -np.inf, -np.inf, np.inf, 0])
    assert forwards == calls == len(seen) and not any(3 in rows for rows in seen)
    if compact and capacity == 1:
        assert gradients == 4 + 3 + 3 + 2 + 2 + 1 and seen[-1] == [4]
