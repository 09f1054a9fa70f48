"""Images in folders, one for each class → `ImageDataset`.

Pillow reads them: TFDS' own `ImageFolder` needs a folder for each split, does not turn images as their EXIF data say,
and does not say which file is broken.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import pathlib
from collections.abc import Container, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from tfadv.datasets.sources import ImageDataset, fitted
from tfadv.datasets.storage import Allocate
from tfadv.errors import UserError
from tfadv.specs import sides, size

LOG = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_NOT_OF_THE_USER = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini")  # what systems leave in folders
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, UnidentifiedImageError, Image.DecompressionBombError, tf.errors.OpError,
)  # fmt: skip
_ORIENTATION = 0x0112  # in EXIF data
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F")


def load(path: pathlib.Path, image_size: int | str, fit: str = "keras", allocate: Allocate = np.empty) -> ImageDataset:
    """Reads all images.

    Images of several frames give their first one; transparent pixels become white; 16-bit images are scaled to 8 bits;
    images in other colour spaces are converted to RGB, or stay grey where all images are.

    Args:
      path: a folder with a sub-folder for each class; or with folders named as in `SPLITS`, in small or capital
        letters, each with the same sub-folders.  Folders that hold only one further folder are gone through.
      image_size: pixels per side, or a text such as "24x40", height and width, to which other images are brought; 0 is
        the size of all images.
      fit: one of `tfadv.datasets.FITS`, see `tfadv.datasets.DatasetSpec`.
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
    images = allocate((len(files), *sides(image_size), 1 if grey else 3), np.uint8)
    _decode(files, images, fit)
    return ImageDataset(images, np.asarray(labels, np.int64), list(classes), f"folder {path.resolve().name}", official)


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder and in those inside it, sorted; without what systems leave there."""
    return [file for file in _files(folder) if _is_image(file)]


def _splits(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Split → the folder that holds its classes.

    Raises:
      UserError: two folders are for the same split, none is for training, or one with images is for none.
    """
    path = _inner(path, SPLITS)
    folders = _folders(path)
    named = [folder for folder in folders if folder.name.lower() in SPLITS]
    others = [folder for folder in folders if folder not in named]
    with_images = [folder for folder in others if _has_images(folder)]
    train = [folder for folder in named if SPLITS[folder.name.lower()] == "train"]
    listing = ", ".join(folder.name for folder in named)
    if not train:
        if named and not with_images and all(map(_folders, named)):
            raise UserError(f"{path} has {listing}, but no folder train: give the folder that holds train as well.")
        return {"train": path}
    if with_images:
        if any(map(_shows_images, train)):  # a class that is called train
            return {"train": path}
        raise UserError(
            f"{path} has {listing} and also images in {with_images[0].name}: move these into a class of "
            f"{train[0].name}, or away."
        )
    if others:
        LOG.info("%s: left out, because there are no images in it: %s", path, ", ".join(f.name for f in others))
    splits: dict[str, pathlib.Path] = {}
    for folder in named:
        split = SPLITS[folder.name.lower()]
        if split in splits:
            raise UserError(f"{path} has both {splits[split].name} and {folder.name}: remove or rename one of them.")
        splits[split] = folder
    return {split: _inner(folder) for split, folder in splits.items()}


def _inner(path: pathlib.Path, stop: Container[str] = ()) -> pathlib.Path:
    """The first folder with several, or with one whose name is in `stop`; those before it hold images in one only."""
    inner = path
    while not _shows_images(inner):
        folders = list(filter(_has_images, _folders(inner)))
        if len(folders) != 1 or folders[0].name.lower() in stop:
            break
        inner = folders[0]
    if inner == path or _shows_images(inner):
        return path
    LOG.info("%s: the classes are in %s", path, inner)
    return inner


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _is_of_the_user(folder.name)]


def _is_of_the_user(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_OF_THE_USER


def _is_image(file: pathlib.Path) -> bool:
    return file.suffix.lower() in SUFFIXES and _is_of_the_user(file.name) and file.is_file()


def _shows_images(path: pathlib.Path) -> bool:
    return any(map(_is_image, path.iterdir()))


def _has_images(path: pathlib.Path) -> bool:
    """Whether there are images in a folder or in those inside it."""
    return _shows_images(path) or any(map(_has_images, _folders(path)))


def _classes(splits: dict[str, pathlib.Path]) -> tuple[str, ...]:
    found = {split: [folder.name for folder in _folders(path)] for split, path in splits.items()}
    classes = found["train"]
    if len(classes) < 2:
        raise UserError(
            f"{splits['train']} must have a sub-folder for each class, two or more; it has {len(classes)}"
            f"{f' ({classes[0]})' if classes else ''}."
        )
    for split, own in found.items():
        different = sorted(set(own) ^ set(classes))
        if different:
            raise UserError(
                f"{splits[split]} and {splits['train']} must have the same classes; only one of them has "
                f"{', '.join(different[:10])}."
            )
    return tuple(classes)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and all(map(_is_of_the_user, file.relative_to(folder).parts))
    ]


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    files = _files(folder)
    images = [file for file in files if _is_image(file)]
    if not images:
        raise UserError(
            f"there are no images in {folder}: it must hold files such as {', '.join(SUFFIXES[:3])}. If it is not a "
            "class, move it away."
        )
    if len(images) < len(files):
        other = next(file for file in files if file not in images)
        LOG.warning("%s: %d files are not images, such as %s", folder, len(files) - len(images), other.name)
    return images


def _headers(files: Sequence[pathlib.Path]) -> tuple[list[tuple[int, int]], bool]:
    """((height, width) of each image as it is seen, whether all are grey)."""

    def header(file: pathlib.Path) -> tuple[tuple[int, int], bool]:
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)  # rows and columns are exchanged
            height, width = (image.width, image.height) if turned else (image.height, image.width)
            return (height, width), image.mode in _GREY

    found = _of_each(header, files)
    return [size for size, _ in found], all(grey for _, grey in found)


def _common_size(path: pathlib.Path, sizes: Sequence[tuple[int, int]]) -> int | str:
    (height, width), most = min(sizes), max(sizes)
    if (height, width) != most:
        raise UserError(
            f"the images in {path} must be of one size, and have {height}x{width} to {most[0]}x{most[1]}: give "
            "--image_size."
        )
    return size(f"{height}x{width}")


def _decode(files: Sequence[pathlib.Path], images: np.ndarray, fit: str) -> None:
    """Fills uint8 (N, height, width, 1 or 3)."""
    height, width, channels = images.shape[1:]
    grey, numbers = channels == 1, {file: number for number, file in enumerate(files)}

    def decode(file: pathlib.Path) -> None:
        converted = _eight_bits(_opened(file, as_keras=fit in ("keras", "crop")), grey)
        if fit == "pad" and converted.width <= width and converted.height <= height:
            bordered = Image.new(converted.mode, (width, height))
            bordered.paste(converted, ((width - converted.width) // 2, (height - converted.height) // 2))
            converted = bordered
        elif fit in ("pad", "resize") and converted.size != (width, height):
            converted = converted.resize((width, height), Image.Resampling.BILINEAR)  # antialiased
        pixels = np.asarray(converted, np.uint8).reshape(converted.height, converted.width, channels)
        images[numbers[file]] = fitted(pixels, f"{height}x{width}", fit)

    _of_each(decode, files)


def _opened(file: pathlib.Path, as_keras: bool) -> Image.Image:
    """The image, turned as its EXIF data say; `as_keras`: with the pixels that Keras' loader decodes."""
    with Image.open(file) as image:
        if not (as_keras and image.format == "JPEG" and image.mode in ("L", "RGB")):
            image.load()
            return ImageOps.exif_transpose(image)
        # TensorFlow's decoder of JPEG rounds otherwise than Pillow's: by up to ten grey levels.
        pixels = tf.io.decode_image(file.read_bytes(), expand_animations=False).numpy()
        decoded = Image.fromarray(pixels.reshape(pixels.shape[:2] if image.mode == "L" else pixels.shape))
        decoded.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
        return ImageOps.exif_transpose(decoded)


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
        except _UNREADABLE as e:
            return None, f"{file} ({' '.join(str(e).split())[:150] or type(e).__name__})"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(attempt, files))
    broken = [reason for _, reason in results if reason]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise UserError(f"can't read the image {broken[0]}{more}: replace or remove it.")
    return [result for result, _ in results]
