"""Training, validation and test images of a data set, and balancing by undersampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import train_test_split

from tfadv.errors import UserError

SPLITS = ("train", "validation", "test")
LEAST_IMAGES = 10  # of a class


def stratified_splits(labels: np.ndarray, seed: int, train_size: int = 0) -> dict[str, np.ndarray]:
    """Splits a data set 70/10/20 (paper, section 4.1), stratified by class.

    Args:
      labels: int (N,).
      seed: int; the same labels and seed give the same splits.
      train_size: int, how many training images to keep (stratified); 0, or
        more than there are, keeps all.

    Returns:
      dict of sorted int64 index arrays "train", "validation" and "test". They are disjoint and
      together hold every image once, except those that `train_size` leaves out.

    Raises:
      UserError: there are fewer than three images.
    """
    rest, test = hold_out(labels, 0.2, seed)
    return _with_validation(labels, rest, test, 0.125, seed, train_size)


def official_splits(
    labels: np.ndarray, official: Mapping[str, range], seed: int, train_size: int = 0
) -> dict[str, np.ndarray]:
    """The data set's own splits; where it has none for validation, that is 10% of its training split, by class.

    Figures on these splits can stand beside published ones.

    Args:
      labels: int (N,).
      official: TFDS split name → positions of its images.
      seed: int, picks the validation images.
      train_size: as in `stratified_splits`.

    Returns:
      dict as in `stratified_splits`; "test" is the whole official test split, and the others are empty where there is
      no other.

    Raises:
      UserError: the data set has no split "train" or "test", or as in `stratified_splits`.
    """
    if official.keys() == {"test"}:
        none = np.zeros(0, np.int64)
        return {"train": none, "validation": none, "test": np.asarray(official["test"])}
    if not {"train", "test"} <= official.keys():
        raise UserError(
            f"--split=official needs the splits train and test; this data set has {', '.join(official)}: "
            "use --split=stratified, or call one of them test."
        )
    rest, test = np.asarray(official["train"]), np.asarray(official["test"])
    if "validation" in official:
        train, validation = rest, np.asarray(official["validation"])
        return {"train": _kept(train, labels, seed, train_size), "validation": validation, "test": test}
    return _with_validation(labels, rest, test, 0.1, seed, train_size)


def check_classes(labels: np.ndarray, names: Sequence[str], train_size: int) -> None:
    """Checks that there are enough images of each class that has any; a data set may name classes without images.

    Args:
      labels: int (N,).
      names: one per class.
      train_size: as in `stratified_splits`.

    Raises:
      UserError: a class has 1 to 9 images, or `train_size` is below the number of classes.
    """
    counts = np.bincount(labels, minlength=len(names))
    few = [f"{name} ({count})" for name, count in zip(names, counts) if 0 < count < LEAST_IMAGES]
    if few:
        more = ", …" if len(few) > 5 else ""
        raise UserError(
            f"every class needs at least {LEAST_IMAGES} images for training, validation and test; too few have "
            f"{', '.join(few[:5])}{more}: add images, or leave these classes out."
        )
    present = np.count_nonzero(counts)
    if 0 < train_size < present:
        raise UserError(f"--train_size is {train_size}: give at least one image for each of the {present} classes.")


def _kept(rows: np.ndarray, labels: np.ndarray, seed: int, train_size: int) -> np.ndarray:
    """The training images to keep, sorted."""
    if 0 < train_size < len(rows):
        kept, _ = _parted(labels[rows], len(rows) - train_size, seed)
        rows = rows[kept]
    return np.sort(rows)


def _with_validation(
    labels: np.ndarray, rest: np.ndarray, test: np.ndarray, validation_share: float, seed: int, train_size: int
) -> dict[str, np.ndarray]:
    train, validation = (rest[positions] for positions in hold_out(labels[rest], validation_share, seed))
    train = _kept(train, labels, seed, train_size)
    return {"train": train, "validation": np.sort(validation), "test": np.sort(test)}


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a share of the images, by class as far as there are enough of them.

    Where each class has two images or more and both parts have room for all classes, this is scikit-learn's stratified
    split, unless that would hold out all images of a class.  Else as many images are held out, of as many classes as
    possible and equally many of each; a class never gives its last image, so those with one image are kept.  Where all
    classes have one image, some are held out nevertheless.

    Args:
      labels: int (N,), N >= 2.
      share: above 0 and below 1, the share of images to hold out; rounded up to whole images.
      seed: int; the same labels, share and seed give the same parts.

    Returns:
      Disjoint int64 positions in random order (kept, held out), together all of 0 … N - 1; neither is empty.

    Raises:
      UserError: there are fewer than two images.
    """
    if len(labels) < 2:
        raise UserError(
            f"{len(labels)} images can't be split into two parts: give two or more, and more of each class."
        )
    return _parted(labels, min(math.ceil(share * len(labels)), len(labels) - 1), seed)


def _parted(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `hold_out`, for a number of images from 1 to N - 1; fewer are held out where classes would lose all images."""
    classes, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    single = counts[which] == 1
    if single.any() and not single.all():
        several = np.flatnonzero(~single)
        kept, held = (several[positions] for positions in _parted(labels[several], size, seed))
        return np.concatenate([kept, np.flatnonzero(single)]), held
    positions = np.arange(len(labels))
    size = size if single.all() else min(size, len(labels) - len(classes))
    if not single.all() and len(classes) <= min(size, len(labels) - size):
        kept, held = train_test_split(positions, test_size=size, stratify=labels, random_state=seed)
        if len(np.unique(labels[kept])) == len(classes):
            return kept, held
    order = np.random.default_rng(seed).permutation(positions)
    if single.all():
        return order[size:], order[:size]
    # Each class's images get the numbers 0, 1, 2, …; all images of number 0 are held out first, then those of number 1.
    number = np.empty(len(labels), np.int64)
    for own in (order[labels[order] == name] for name in classes):
        number[own] = np.arange(len(own))
    able = order[number[order] < counts[which[order]] - 1]  # all but the last one of each class
    held = able[np.argsort(number[able], kind="stable")][:size]
    return order[~np.isin(order, held)], held


def draw_balanced(labels: np.ndarray, size: int, seed: Sequence[int]) -> np.ndarray:
    """Positions of images drawn without replacement, of each class equally many, as far as there are so many.

    Args:
      labels: int (N,).
      size: number of images to draw; where it is not a multiple of the number of classes, some classes have one more.
      seed: ints.

    Returns:
      Sorted int64 positions, at most `size`.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    classes = rng.permutation(np.unique(labels))
    least, more = divmod(size, len(classes))
    drawn = [order[labels[order] == c][: least + (i < more)] for i, c in enumerate(classes)]
    return np.sort(np.concatenate(drawn))


def undersample(labels: np.ndarray, seed: int) -> np.ndarray:
    """Drops images of the larger classes until all classes are equally large.

    Args:
      labels: int (N,).
      seed: int, picks which images stay.

    Returns:
      Sorted int64 positions of the images that stay, (M,) with M <= N.
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    keep = [rng.choice(np.flatnonzero(labels == c), counts.min(), replace=False) for c in classes]
    return np.sort(np.concatenate(keep))
