"""The division of a data set into training, validation and test images, and balancing."""

import numpy as np
from sklearn.model_selection import train_test_split

from tfadv.errors import UserError

SPLITS = ("train", "validation", "test")


def divide(labels, seed, train_size=0):
    """Divides images 70/10/20 (paper, section 4.1), stratified by class.

    Args:
      labels: int (N,).
      seed: int; the same labels and seed give the same division.
      train_size: int, keep only so many of the training images (stratified);
        0, or more than there are, keeps all.

    Returns:
      dict of sorted int64 index arrays: "train", "validation", "test"; disjoint,
      and together every image once (but for those `train_size` leaves out).

    Raises:
      UserError: too few images of a class, or a `train_size` below the number of classes.
    """
    if np.unique(labels, return_counts=True)[1].min() < 10:
        raise UserError("a class has fewer than 10 images: too few for training, validation and test.")
    classes = len(np.unique(labels))
    if 0 < train_size < classes:
        raise UserError(f"--train_size is {train_size}: give at least one image for each of the {classes} classes.")
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=0.125, stratify=labels[rest], random_state=seed)
    if 0 < train_size < len(train):
        train, _ = train_test_split(train, train_size=train_size, stratify=labels[train], random_state=seed)
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def undersample(labels, seed):
    """Leaves out images of the larger classes until all classes are equally large.

    Args:
      labels: int (N,).
      seed: int, picks which images stay.

    Returns:
      Sorted int64 positions of the images that stay, M <= N.
    """
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    keep = [rng.choice(np.flatnonzero(labels == c), counts.min(), replace=False) for c in classes]
    return np.sort(np.concatenate(keep))
