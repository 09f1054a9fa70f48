import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tfadv.datasets import splits
from tfadv.errors import UserError


@hypothesis.settings(max_examples=40)
@hypothesis.given(counts=st.lists(st.integers(20, 200), min_size=2, max_size=6), seed=st.integers(0, 2**31 - 1))
def test_each_image_is_in_one_split_70_10_20_in_every_class(counts, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = splits.stratified_splits(labels, seed)
    together = np.concatenate([rows[split] for split in splits.SPLITS])
    assert sorted(together) == list(range(len(labels)))
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        of_class = np.bincount(labels[rows[split]], minlength=len(counts))
        assert np.abs(of_class - share * np.array(counts)).max() <= 2


def test_the_seed_decides_the_splits():
    labels = np.arange(1000) % 10
    first, again, other = (splits.stratified_splits(labels, seed) for seed in (3, 3, 4))
    assert all((first[split] == again[split]).all() for split in splits.SPLITS)
    assert (first["test"] != other["test"]).any()


def test_train_size_limits_only_the_training_images():
    labels = np.arange(1000) % 10
    full, small = splits.stratified_splits(labels, 0), splits.stratified_splits(labels, 0, train_size=100)
    assert np.bincount(labels[small["train"]]).tolist() == [10] * 10
    assert set(small["train"]) < set(full["train"])
    assert (full["test"] == small["test"]).all() and (full["validation"] == small["validation"]).all()
    assert len(splits.stratified_splits(labels, 0, train_size=5000)["train"]) == 700


OFFICIAL = {"test": range(0, 200), "train": range(200, 1000), "unlabelled": range(1000, 1100)}


def test_official_test_split_is_kept_and_validation_comes_from_training():
    labels = np.random.default_rng(0).integers(0, 5, 1100)
    rows = splits.official_splits(labels, OFFICIAL, seed=0)
    assert rows["test"].tolist() == list(OFFICIAL["test"])
    assert sorted([*rows["train"], *rows["validation"]]) == list(OFFICIAL["train"])  # nothing of the other split
    assert len(rows["validation"]) == 80
    share = np.bincount(labels[rows["validation"]]) / np.bincount(labels[OFFICIAL["train"]])
    assert np.abs(share - 0.1).max() < 0.01  # stratified


def test_official_splits_depend_on_seed_and_train_size_as_stratified_ones():
    labels = np.arange(1100) % 5
    full, other = (splits.official_splits(labels, OFFICIAL, seed) for seed in (0, 1))
    small = splits.official_splits(labels, OFFICIAL, 0, train_size=50)
    assert (full["validation"] != other["validation"]).any()
    assert (full["test"] == other["test"]).all() and (full["test"] == small["test"]).all()
    assert (full["validation"] == small["validation"]).all()
    assert np.bincount(labels[small["train"]]).tolist() == [10] * 5 and set(small["train"]) < set(full["train"])


@pytest.mark.parametrize("official", [{"train": range(1000)}, {"train": range(900), "validation": range(900, 1000)}])
def test_official_splits_need_a_test_split(official):
    with pytest.raises(UserError, match=f"this data set has {', '.join(official)}: use --split=stratified"):
        splits.official_splits(np.arange(1000) % 10, official, 0)


def test_digits_have_no_official_test_split(digits):
    with pytest.raises(UserError, match="--split=official needs .* has train: use --split=stratified"):
        splits.official_splits(digits.labels, digits.official_splits, 0)


def test_too_few_images():
    names = list("abcdefghij")
    splits.check_classes(np.arange(100) % 10, names, 10)
    with pytest.raises(UserError, match="--train_size is 5: give at least one image for each of the 10 classes"):
        splits.check_classes(np.arange(1000) % 10, names, 5)
    with pytest.raises(UserError, match=r"at least 10 images .*; too few have b \(5\): add images, or leave"):
        splits.check_classes(np.array([0] * 90 + [1] * 5), ["a", "b", "c"], 0)


@hypothesis.settings(max_examples=100)
@hypothesis.example(counts=[2, 2, 6], share=0.9, seed=0)
@hypothesis.example(counts=[2, 2, 26], share=0.9, seed=0)
@hypothesis.given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    share=st.sampled_from([0.1, 0.125, 0.2, 0.5, 0.9]),
    seed=st.integers(0, 2**31 - 1),
)
def test_images_are_held_out_for_any_number_of_each_class(counts, share, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    hypothesis.assume(len(labels) > 1)
    kept, held = splits.hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels))) and len(kept) and len(held)
    assert kept.dtype == held.dtype == np.int64
    again = splits.hold_out(labels, share, seed)
    assert (again[0] == kept).all() and (again[1] == held).all()
    try:  # what was done before there was `hold_out`
        expected = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed)
    except ValueError:
        if max(counts) > 1:
            assert set(labels[kept]) == set(labels)  # no class loses all its images
            assert len(held) <= math.ceil(share * len(labels))
    else:
        if set(labels[expected[0]]) == set(labels):
            assert [part.tolist() for part in expected] == [kept.tolist(), held.tolist()]
        assert set(labels[kept]) == set(labels)


@pytest.mark.parametrize(
    "counts, share, held",
    [
        ([6] * 10, 0.1, [1] * 6 + [0] * 4),  # fewer places than classes: of six classes one image each
        ([40, 40, 1], 0.1, [5, 4, 0]),  # a class with one image keeps it; the others are stratified
        ([1, 1, 1, 1, 2], 0.1, [1, 0, 0, 0, 0]),
        ([2], 0.1, [1]),
        ([1, 1], 0.1, [1, 0]),
        ([1] * 20, 0.1, [1, 1] + [0] * 18),
        ([2] * 10, 0.9, [1] * 10),  # one of each class is left
        ([3, 3], 0.2, [1, 1]),
    ],
)
def test_how_many_images_are_held_out_of_each_class(counts, share, held):
    labels = np.repeat(np.arange(len(counts)), counts)
    _, positions = splits.hold_out(labels, share, 0)
    assert sorted(np.bincount(labels[positions], minlength=len(counts)), reverse=True) == held
    if 1 in counts and max(counts) > 1:
        assert not set(labels[positions]) & set(np.flatnonzero(np.array(counts) == 1))


def test_one_image_can_not_be_split():
    for labels in (np.array([3]), np.array([], int)):
        with pytest.raises(UserError, match=f"{len(labels)} images can't be split into two parts: give two or more"):
            splits.hold_out(labels, 0.1, 0)


def test_small_official_splits_and_odd_train_sizes_work():
    """scikit-learn refuses these with sentences about its own arguments."""
    labels = np.arange(70) % 10
    official = {"train": range(60), "test": range(60, 70)}
    rows = splits.official_splits(labels, official, 0)
    assert len(rows["validation"]) == 6 and set(labels[rows["train"]]) == set(range(10))
    rows = splits.stratified_splits(np.arange(1000) % 10, 0, train_size=699)  # one of 700 is left out
    assert len(rows["train"]) == 699
    labels = np.array([*range(10), *[0] * 90])  # nine classes with one training image
    rows = splits.official_splits(labels, {"train": range(90), "test": range(90, 100)}, 0, train_size=20)
    assert set(labels[rows["train"]]) == set(range(10)) and len(rows["train"]) == 20


def test_classes_without_images_are_no_obstacle():
    labels = np.repeat([1, 3], 100)
    splits.check_classes(labels, list("abcd"), 2)
    with pytest.raises(UserError, match="each of the 2 classes"):
        splits.check_classes(labels, list("abcd"), 1)
    rows = splits.stratified_splits(labels, 0, train_size=20)
    assert np.bincount(labels[rows["train"]]).tolist() == [0, 10, 0, 10]
    assert len(splits.undersample(labels, 0)) == 200


def test_official_validation_images_stay_those():
    official = {"train": range(800), "validation": range(800, 900), "test": range(900, 1000)}
    rows = splits.official_splits(np.arange(1000) % 10, official, 0, train_size=50)
    assert {split: (len(own), min(own), max(own)) for split, own in rows.items() if split != "train"} == {
        "validation": (100, 800, 899),
        "test": (100, 900, 999),
    }
    assert np.bincount(rows["train"] % 10).tolist() == [5] * 10 and max(rows["train"]) < 800


def test_undersampling_keeps_all_images_of_the_smallest_class():
    labels = np.array([0] * 50 + [1] * 20 + [2] * 30)
    keep = splits.undersample(labels, 0)
    assert np.bincount(labels[keep]).tolist() == [20, 20, 20]
    assert len(set(keep)) == 60 and set(range(50, 70)) <= set(keep)
    assert (splits.undersample(labels, 0) == keep).all()


@hypothesis.given(st.integers(1, 60), st.integers(0, 99))
def test_a_balanced_draw_has_equally_many_of_each_class(size, seed):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [40, 25, 20]))
    positions = splits.draw_balanced(labels, size, (seed, 1))
    assert len(set(positions.tolist())) == size == len(positions) and (np.diff(positions) > 0).all()
    counts = np.bincount(labels[positions], minlength=3)
    assert counts.max() - counts.min() <= 1
    assert splits.draw_balanced(labels, size, (seed, 1)).tolist() == positions.tolist()
    if 5 < size:
        assert splits.draw_balanced(labels, size, (seed, 2)).tolist() != positions.tolist()


def test_a_balanced_draw_takes_all_of_a_small_class():
    labels = np.repeat([0, 1], [10, 3])
    assert np.bincount(labels[splits.draw_balanced(labels, 10, (0,))]).tolist() == [5, 3]


def test_a_data_set_of_test_images_only_has_no_others():
    rows = splits.official_splits(np.arange(6) % 3, {"test": range(6)}, seed=0)
    assert {split: list(own) for split, own in rows.items()} == {
        "train": [],
        "validation": [],
        "test": [*range(6)],
    }
