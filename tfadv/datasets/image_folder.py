"""Images in folders, one for each class → `ImageDataset`.

Pillow reads them: TFDS' own `ImageFolder` needs a folder for each split, does not turn images as their EXIF data say,
and does not say which file is broken.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tfadv.datasets.sources import ImageDataset
from tfadv.datasets.storage import Allocate
from tfadv.errors import UserError

LOG = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def load(path: pathlib.Path, image_size: int, fit: str = "resize", allocate: Allocate = np.empty) -> ImageDataset:
    """Reads all images.

    Images of several frames give their first one; transparent pixels become white; 16-bit images are scaled to 8 bits;
    images in other colour spaces are converted to RGB, or stay grey where all images are.

    Args:
      path: a folder with a sub-folder for each class; or with folders train, validation (or val) and test, each with
        the same sub-folders.
      image_size: pixels per side, to which other images are brought; 0 is the size of all images.
      fit: "pad" or "resize", see `tfadv.datasets.DatasetSpec`.
      allocate: creates the array of the images from its shape and type.

    Returns:
      The images in the order of splits, classes and file names.

    Raises:
      UserError: a file can't be read; there are fewer than two classes, or other classes in another split; a class is
        empty; or the images have several sizes and none is given.
    """
    splits = _splits(path)
    classes = _classes(splits)
    files: list[pathlib.Path] = []
    labels: list[int] = []
    official = {}
    for split, folder in splits.items():
        first = len(files)
        for number, name in enumerate(classes):
            own = _images(folder / name)
            files += own
            labels += [number] * len(own)
        official[split] = range(first, len(files))
    sizes, grey = _headers(files)
    if not image_size:
        image_size = _common_size(path, sizes)
    images = allocate((len(files), image_size, image_size, 1 if grey else 3), np.uint8)
    _decode(files, images, fit)
    return ImageDataset(images, np.asarray(labels, np.int64), list(classes), f"folder {path.resolve().name}", official)


def _splits(path: pathlib.Path) -> dict[str, pathlib.Path]:
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    names = [folder.name for folder in folders]
    if {"val", "validation"} <= set(names):
        raise UserError(f"{path} has both val and validation: remove or rename one of them.")
    if "train" in names and set(names) <= SPLITS.keys():
        return {SPLITS[folder.name]: folder for folder in folders}
    return {"train": path}


def _classes(splits: dict[str, pathlib.Path]) -> tuple[str, ...]:
    found = {
        split: sorted(c.name for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))
        for split, folder in splits.items()
    }
    classes = found["train"]
    if len(classes) < 2:
        raise UserError(f"{splits['train']} must have a sub-folder for each class, two or more; it has {len(classes)}.")
    for split, own in found.items():
        different = sorted(set(own) ^ set(classes))
        if different:
            raise UserError(
                f"{splits[split]} and {splits['train']} must have the same classes; only one of them has "
                f"{', '.join(different[:10])}."
            )
    return tuple(classes)


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(f"there are no images in {folder}: it must hold files such as {', '.join(SUFFIXES[:3])}.")
    if len(images) < len(files):
        other = next(file for file in files if file not in images)
        LOG.warning("%s: %d files are not images, such as %s", folder, len(files) - len(images), other.name)
    return images


def _headers(files: Sequence[pathlib.Path]) -> tuple[list[tuple[int, int]], bool]:
    """((height, width) of each image as it is seen, whether all are grey)."""

    def header(file: pathlib.Path) -> tuple[tuple[int, int], bool]:
        with Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # orientation: rows and columns are exchanged
            height, width = (image.width, image.height) if turned else (image.height, image.width)
            return (height, width), image.mode in _GREY

    found = _of_each(header, files)
    return [size for size, _ in found], all(grey for _, grey in found)


def _common_size(path: pathlib.Path, sizes: Sequence[tuple[int, int]]) -> int:
    least, most = min(sizes), max(sizes)
    if least != most or least[0] != least[1]:
        listing = " to ".join(dict.fromkeys(f"{height}x{width}" for height, width in (least, most)))
        raise UserError(f"the images in {path} must be square and of one size, and have {listing}: give --image_size.")
    return least[0]


def _decode(files: Sequence[pathlib.Path], images: np.ndarray, fit: str) -> None:
    """Fills uint8 (N, size, size, 1 or 3)."""
    size, channels = images.shape[2:]
    grey, numbers = channels == 1, {file: number for number, file in enumerate(files)}

    def decode(file: pathlib.Path) -> None:
        with Image.open(file) as image:
            image.load()
            converted = _eight_bits(ImageOps.exif_transpose(image), grey)
            if fit == "pad" and max(converted.size) <= size:
                bordered = Image.new(converted.mode, (size, size))
                bordered.paste(converted, ((size - converted.width) // 2, (size - converted.height) // 2))
                converted = bordered
            elif converted.size != (size, size):
                converted = converted.resize((size, size), Image.Resampling.BILINEAR)  # antialiased
            images[numbers[file]] = np.asarray(converted, np.uint8).reshape(size, size, channels)

    _of_each(decode, files)


def _eight_bits(image: Image.Image, grey: bool) -> Image.Image:
    """The image as "L" where `grey`, else as "RGB", on white where it is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        if image.mode == "F" and values.max(initial=0) <= 1:
            values = values * 65535
        image = Image.fromarray(np.clip(np.round(values / 257), 0, 255).astype(np.uint8))  # 65535 = 257 · 255
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _of_each(function, files):
    """The function's results for all files, in order.

    Raises:
      UserError: it fails for some; the message names the first.
    """

    def attempt(file):
        try:
            return function(file), None
        except (OSError, ValueError, SyntaxError, EOFError, UnidentifiedImageError, Image.DecompressionBombError) as e:
            return None, f"{file} ({' '.join(str(e).split())[:150] or type(e).__name__})"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(attempt, files))
    broken = [reason for _, reason in results if reason]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise UserError(f"can't read the image {broken[0]}{more}: replace or remove it.")
    return [result for result, _ in results]
