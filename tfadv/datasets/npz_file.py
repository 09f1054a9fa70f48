"""An .npz file with the arrays x and y → `ImageDataset`."""

from __future__ import annotations

import logging
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from tfadv.datasets.sources import ImageDataset, fitted
from tfadv.datasets.storage import Allocate, parts
from tfadv.errors import UserError
from tfadv.specs import sides, size

LOG = logging.getLogger(__name__)
_DARK = 64  # of 255; images whose largest value is lower may have another range
_OVERSHOOT = 0.1  # of the range; what scaling with a sharpening filter adds at most


def load(path: pathlib.Path, image_size: int | str, fit: str = "keras", allocate: Allocate = np.empty) -> ImageDataset:
    """Reads the arrays.

    Args:
      path: a file with `x`, numbers (N, H, W) or (N, H, W, 1 or 3) from 0 to 255, 0 to 1 or -1 to 1, and `y`, integers
        (N,) or one-hot (N, K); or with `x_train`, `y_train`, `x_test` and `y_test`, and perhaps `x_val` and `y_val`;
        or with `x_test` and `y_test` alone; and, if need be, `class_names`.
      image_size: pixels per side, or a text such as "24x40", height and width, to which other images are brought; 0 is
        the size of the images.
      fit: one of `tfadv.datasets.FITS`, see `tfadv.datasets.DatasetSpec`.
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
        if path.is_file() and not zipfile.is_zipfile(path):
            raise UserError(f"{path} is no .npz file, or its end is missing: write it with np.savez.")
        raise UserError(f"{path} can't be read as an .npz file without Python objects: {str(error)[:200]}.")
    suffixes = {"train": ""}
    if "x_train" in arrays:
        validation = {"validation": "_val"} if "x_val" in arrays else {}
        suffixes = {"train": "_train", **validation, "test": "_test"}
    elif "x_test" in arrays:
        suffixes = {"test": "_test"}
    wanted = [f"{name}{suffix}" for suffix in suffixes.values() for name in "xy"]
    if not set(wanted) <= arrays.keys():
        raise UserError(f"{path} must hold {', '.join(wanted)}; it holds {', '.join(arrays) or 'nothing'}.")
    images = _pixels(path, [_images(path, f"x{suffix}", arrays[f"x{suffix}"]) for suffix in suffixes.values()])
    labels, widths = zip(*(_labels(path, f"y{suffix}", arrays[f"y{suffix}"]) for suffix in suffixes.values()))
    if len({y.dtype.kind for y in labels}) > 1:
        kinds = ", ".join(f"y{suffix} is {y.dtype}" for y, suffix in zip(labels, suffixes.values()))
        raise UserError(f"{path}: labels must be numbers in all arrays, or texts in all of them; {kinds}.")
    if len(set(widths) - {0}) > 1:
        raise UserError(f"{path}: its one-hot labels have {' and '.join(map(str, sorted(set(widths) - {0})))} columns.")
    for x, y, suffix in zip(images, labels, suffixes.values()):
        if len(x) != len(y):
            raise UserError(f"{path}: x{suffix} has {len(x)} images and y{suffix} has {len(y)} labels.")
    if len({x.shape[1:] for x in images}) > 1:
        raise UserError(f"{path}: its arrays have images of different shapes.")
    official, done = {}, 0
    for split, x in zip(suffixes, images):
        official[split] = range(done, done + len(x))
        done += len(x)
    y, names = _numbered(path, np.concatenate(labels), max(widths), arrays.get("class_names"))
    height, width, channels = images[0].shape[1:]
    image_size, row = image_size or size(f"{height}x{width}"), 0
    fitted_images = allocate((done, *sides(image_size), channels), np.uint8)
    for part in (part for x in images for part in parts(x, 1024)):
        fitted_images[row : row + len(part)] = fitted(part, image_size, fit)
        row += len(part)
    return ImageDataset(fitted_images, y, names, f"npz {path.name}", official)


def _images(path: pathlib.Path, name: str, x: np.ndarray) -> np.ndarray:
    """(N, H, W, C), numbers or bool."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not x.size:
        first = (
            " The channels come last: use np.transpose(x, (0, 2, 3, 1))."
            if x.ndim == 4 and x.shape[1] in (1, 3)
            else ""
        )
        raise UserError(f"{path}: {name} must be images (N, H, W) or (N, H, W, 1 or 3); its shape is {x.shape}.{first}")
    if x.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name} must be numbers from 0 to 255, 0 to 1 or -1 to 1; it is {x.dtype}.")
    return x


def _pixels(path: pathlib.Path, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8, read from the range that the images of all splits have together; says how, where there is a choice."""
    if len({x.dtype.kind for x in images}) > 1:
        return [pixels for x in images for pixels in _pixels(path, [x])]
    kind = np.result_type(*images).name
    if not all(np.isfinite(x).all() for x in images if x.dtype.kind == "f"):
        raise UserError(f"{path}: the images hold NaN or infinite values: replace or remove them.")
    low, high = float(min(x.min() for x in images)), float(max(x.max() for x in images))
    black, white, is_guess = _range(path, kind, low, high)
    if all(x.dtype == np.uint8 for x in images) and white == 255 and not is_guess:
        return list(images)
    LOG.log(
        logging.WARNING if is_guess else logging.INFO,
        "%s: the images are %s from %g to %g, and are read with %g as black and %g as white%s",
        *(path.name, kind, low, high, black, white),
        "; if this is wrong, store them as uint8 from 0 to 255" if is_guess else ", in the 256 levels of uint8",
    )
    scale = 255 / (white - black)

    def levels(x: np.ndarray) -> np.ndarray:
        if (black, white) == (0, 1):  # keeps the type, whose rounding decides the levels of float images
            x = x * 255 if x.dtype.kind == "f" else x.astype(np.float32) * 255
        elif (black, white) != (0, 255):
            x = (x.astype(np.float32) - black) * scale
        return np.clip(np.round(x), 0, 255).astype(np.uint8)

    return [levels(x) for x in images]


def _range(path: pathlib.Path, kind: str, low: float, high: float) -> tuple[float, float, bool]:
    """(value of black, value of white, whether this is a guess) of images with these least and greatest values.

    Raises:
      UserError: it is no range of pixels.
    """
    if kind == "bool":
        return 0, 1, False
    if not kind.startswith("float"):
        if 0 <= low and high == 1:
            return 0, 1, True
        if 0 <= low and high <= 255:
            return 0, 255, 0 < high < _DARK or kind == "int8"
    elif 0 <= low and high <= 1:
        return 0, 1, False
    elif -1 <= low < -_OVERSHOOT and high <= 1:
        return -1, 1, False
    elif -_OVERSHOOT <= low and high <= 1 + _OVERSHOOT:
        return 0, 1, True
    elif -1 - _OVERSHOOT <= low < 0 and high <= 1 + _OVERSHOOT:
        return -1, 1, True
    elif 0 <= low and high <= 255:
        return 0, 255, high < _DARK
    elif -_OVERSHOOT * 255 <= low and _DARK <= high <= (1 + _OVERSHOOT) * 255:
        return 0, 255, True
    raise UserError(
        f"{path}: the images are {kind} from {low:g} to {high:g}, and must be from 0 to 255, 0 to 1 or -1 to 1: scale "
        "them so; a normalization belongs into the model."
    )


def _labels(path: pathlib.Path, name: str, y: np.ndarray) -> tuple[np.ndarray, int]:
    """(labels int64 or text (N,), K where they are one-hot rows (N, K), else 0); numbers or texts may be one column."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.size and y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        return np.argmax(y, axis=1), y.shape[1]
    if y.ndim == 1 and y.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):  # NaN is no whole number
            whole = y.astype(np.int64)
        y = whole if (whole == y).all() else y
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise UserError(f"{path}: {name} must be class numbers (N,) or one-hot (N, K); it is {y.dtype} {y.shape}.")
    return y, 0


def _numbered(
    path: pathlib.Path, y: np.ndarray, width: int, class_names: np.ndarray | None
) -> tuple[np.ndarray, list[str]]:
    """(classes int64 (N,), one name per class); names and the width of one-hot rows tell of classes without images."""
    names = None if class_names is None else [str(name) for name in np.atleast_1d(class_names)]
    twice = sorted({name for name in names or [] if (names or []).count(name) > 1})
    if twice:
        raise UserError(f"{path}: class_names holds {', '.join(twice[:5])} twice.")
    if width:
        if not 0 <= y.min() <= y.max() < width:
            raise UserError(
                f"{path}: its one-hot labels have {width} columns, and its numbers are {y.min()} to {y.max()}."
            )
        known = [str(number) for number in range(width)]
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
