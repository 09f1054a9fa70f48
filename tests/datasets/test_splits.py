import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tfadv.datasets import split
from tfadv.errors import UserError


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(counts=st.lists(st.integers(20, 200), min_size=2, max_size=6), seed=st.integers(0, 2**31 - 1))
def test_every_image_once_70_10_20_in_every_class(counts, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    division = split.divide(labels, seed)
    together = np.concatenate([division[part] for part in split.SPLITS])
    assert sorted(together) == list(range(len(labels)))
    for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        of_class = np.bincount(labels[division[part]], minlength=len(counts))
        assert np.abs(of_class - share * np.array(counts)).max() <= 2


def test_same_seed_same_division_other_seed_another():
    labels = np.arange(1000) % 10
    first, again, other = split.divide(labels, 3), split.divide(labels, 3), split.divide(labels, 4)
    assert all((first[p] == again[p]).all() for p in split.SPLITS)
    assert (first["test"] != other["test"]).any()


def test_train_size_limits_the_training_images_alone():
    labels = np.arange(1000) % 10
    full, small = split.divide(labels, 0), split.divide(labels, 0, train_size=100)
    assert np.bincount(labels[small["train"]]).tolist() == [10] * 10
    assert set(small["train"]) < set(full["train"])
    assert (full["test"] == small["test"]).all() and (full["validation"] == small["validation"]).all()
    assert len(split.divide(labels, 0, train_size=5000)["train"]) == 700


def test_too_few_images_is_one_clear_line():
    with pytest.raises(UserError, match="--train_size is 5"):
        split.divide(np.arange(1000) % 10, 0, train_size=5)
    with pytest.raises(UserError, match="fewer than 10"):
        split.divide(np.array([0] * 90 + [1] * 5), 0)


def test_undersample_keeps_all_of_the_smallest_class():
    labels = np.array([0] * 50 + [1] * 20 + [2] * 30)
    keep = split.undersample(labels, 0)
    assert np.bincount(labels[keep]).tolist() == [20, 20, 20]
    assert len(set(keep)) == 60 and set(range(50, 70)) <= set(keep)
    assert (split.undersample(labels, 0) == keep).all()
