"""An .npz file with the arrays x and y → `ImageDataset`."""

from __future__ import annotations

import logging
import pathlib

import numpy as np

from tfadv.datasets.sources import ImageDataset, fitted
from tfadv.datasets.storage import Allocate, parts
from tfadv.errors import UserError

LOG = logging.getLogger(__name__)


def load(path: pathlib.Path, image_size: int, fit: str = "resize", allocate: Allocate = np.empty) -> ImageDataset:
    """Reads the arrays.

    Args:
      path: a file with `x`, uint8 or float in [0, 1], (N, H, W) or (N, H, W, 1 or 3), and `y`, integers (N,) or one-hot
        (N, K); or with `x_train`, `y_train`, `x_test` and `y_test`; and, if need be, `class_names`.
      image_size: pixels per side, to which other images are brought; 0 is the size of the images.
      fit: "pad" or "resize", see `tfadv.datasets.DatasetSpec`.
      allocate: creates the array of the images from its shape and type; the file is first read into memory.

    Returns:
      The images in their order, training images first.  Classes are numbered in the order of `class_names`, or else of
      their labels.

    Raises:
      UserError: the file is damaged, or an array is missing or has another shape, type or range.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # of many kinds: damaged, or another file
        raise UserError(f"{path} can't be read as an .npz file without Python objects: {str(error)[:200]}.")
    suffixes = {"train": "_train", "test": "_test"} if "x_train" in arrays else {"train": ""}
    wanted = [f"{name}{suffix}" for suffix in suffixes.values() for name in "xy"]
    if not set(wanted) <= arrays.keys():
        raise UserError(f"{path} must hold {', '.join(wanted)}; it holds {', '.join(arrays) or 'nothing'}.")
    images = [_images(path, f"x{suffix}", arrays[f"x{suffix}"]) for suffix in suffixes.values()]
    labels = [_labels(path, f"y{suffix}", arrays[f"y{suffix}"]) for suffix in suffixes.values()]
    for x, y, suffix in zip(images, labels, suffixes.values()):
        if len(x) != len(y):
            raise UserError(f"{path}: x{suffix} has {len(x)} images and y{suffix} has {len(y)} labels.")
    if len({x.shape[1:] for x in images}) > 1:
        raise UserError(f"{path}: x_train and x_test have images of different shapes.")
    official, done = {}, 0
    for split, x in zip(suffixes, images):
        official[split] = range(done, done + len(x))
        done += len(x)
    y, names = _numbered(path, np.concatenate(labels), arrays.get("class_names"))
    height, width, channels = images[0].shape[1:]
    if not image_size and height != width:
        raise UserError(f"the images in {path} are not square but {height}x{width}: give --image_size.")
    size, row = image_size or height, 0
    fitted_images = allocate((done, size, size, channels), np.uint8)
    for part in (part for x in images for part in parts(x, 1024)):
        fitted_images[row : row + len(part)] = fitted(part, size, fit)
        row += len(part)
    return ImageDataset(fitted_images, y, names, f"npz {path.name}", official)


def _images(path: pathlib.Path, name: str, x: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C)."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not x.size:
        raise UserError(f"{path}: {name} must be images (N, H, W) or (N, H, W, 1 or 3); its shape is {x.shape}.")
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating) or not (0 <= x.min() and x.max() <= 1):
        raise UserError(
            f"{path}: {name} must be uint8, or float in [0, 1]; it is {x.dtype} from {x.min():g} to {x.max():g}."
        )
    LOG.info("%s: %s is rounded to the 256 levels of uint8", path.name, name)
    return np.round(x * 255).astype(np.uint8)


def _labels(path: pathlib.Path, name: str, y: np.ndarray) -> np.ndarray:
    """(N,), from integers, texts or one column; or one-hot rows (N, K)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    one_hot = y.ndim == 2 and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    if not one_hot and (y.ndim != 1 or y.dtype.kind not in "iuU"):
        raise UserError(f"{path}: {name} must be class numbers (N,) or one-hot (N, K); it is {y.dtype} {y.shape}.")
    return y


def _numbered(path: pathlib.Path, y: np.ndarray, class_names: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """(classes int64 (N,), one name per class); one-hot rows and names may tell of classes without images."""
    names = None if class_names is None else [str(name) for name in np.atleast_1d(class_names)]
    if y.ndim == 2:
        y, known = np.argmax(y, axis=1), [str(number) for number in range(y.shape[1])]
    elif y.dtype.kind == "U" and names is not None:
        if not set(y) <= set(names):
            raise UserError(
                f"{path}: y has labels that are not in class_names: {', '.join(sorted(set(y) - set(names))[:5])}."
            )
        y, known = np.array([names.index(label) for label in y]), names
    elif names is not None and y.min() >= 0 and y.max() < len(names):
        known = names
    else:
        classes, y = np.unique(y, return_inverse=True)
        known = [str(label) for label in classes]
        if known != [str(number) for number in range(len(known))]:
            LOG.info("%s: the labels %s are mapped to the classes 0, 1, …", path.name, ", ".join(known[:10]))
    if names is not None and len(names) != len(known):
        raise UserError(f"{path} has {len(known)} classes and {len(names)} class_names.")
    if len(known) < 2:
        raise UserError(f"{path} must have two classes or more; it has {len(known)}.")
    return y.astype(np.int64), names or known
