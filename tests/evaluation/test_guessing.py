"""The limit below which a classifier is said to guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share

SHARES = st.floats(0.001, 1)


@pytest.mark.parametrize("share, limit", [(0.5, 0.55), (0.1, 0.19), (0.01, 0.02), (0.9, 0.91), (1.0, 1.0)])
def test_the_limit_is_a_tenth_of_the_way_to_1_or_twice_the_share(share, limit):
    assert hardly_better_than_guessing(limit - 1e-6, share)
    assert not hardly_better_than_guessing(limit + 1e-6, share)


@given(SHARES, st.floats(0, 1))
def test_one_answer_alone_is_guessing_and_no_error_is_not(share, part):
    assert hardly_better_than_guessing(part * share, share) or share == 1
    assert not hardly_better_than_guessing(1.0, share)


def test_without_a_known_share_nothing_is_guessing():
    assert not hardly_better_than_guessing(0.0, 0.0)


@given(st.lists(st.integers(0, 1000), min_size=1).filter(any))
def test_the_largest_share_is_the_accuracy_of_the_best_single_answer(counts):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    accuracies = [labels.count(answer) / len(labels) for answer in range(len(counts))]
    assert largest_share(counts) == max(accuracies)
