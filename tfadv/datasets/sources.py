"""Data sets → uint8 images: those of TFDS here, and by name those of a folder or a file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import logging
import os
import pathlib
import socket

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv.datasets import DatasetSpec, find, reader
from tfadv.datasets.batches import prefetched
from tfadv.datasets.storage import Allocate, Images, parts, take
from tfadv.errors import UserError
from tfadv.specs import sides
from tfadv.specs import size as as_size

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """All images of a data set, in a fixed order.

    Attributes:
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      class_names: one per class.
      full_name: the TFDS name and version, such as "mnist/3.0.1".
      official_splits: TFDS split name → positions of its images.
      random_order: whether the images of each split were mixed.
    """

    images: Images
    labels: np.ndarray
    class_names: list[str]
    full_name: str
    official_splits: dict[str, range]
    random_order: bool = True

    def digest(self) -> str:
        """The SHA-256 of images and labels: ties splits to exactly these pixels."""
        sha = hashlib.sha256(repr(self.images.shape).encode())
        for images in parts(self.images):
            sha.update(images.data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()

    def shuffled(self) -> ImageDataset:
        """The same images in random order within each official split; the same order in every call."""
        rng = np.random.default_rng(0)
        order = np.concatenate([rng.permutation(np.asarray(rows, np.int64)) for rows in self.official_splits.values()])
        return dataclasses.replace(self, images=take(self.images, order), labels=self.labels[order])

    def labeled(self) -> ImageDataset:
        """The images that have a class, a label of at least 0."""
        has_class = self.labels >= 0
        before = np.concatenate([[0], np.cumsum(has_class)])
        official = {name: range(before[rows.start], before[rows.stop]) for name, rows in self.official_splits.items()}
        return dataclasses.replace(
            self,
            images=take(self.images, np.flatnonzero(has_class)),
            labels=self.labels[has_class],
            official_splits=official,
        )


def load(
    name: str, data_dir: str, image_size: int | str = 0, label: str = "", fit: str = "", allocate: Allocate = np.empty
) -> ImageDataset:
    """Reads a data set, and prepares or downloads it where it is one of TFDS and absent.

    Args:
      name: a data set, see `tfadv.datasets`.
      data_dir: folder of the TFDS data sets.
      image_size: pixels per side, or a text such as "24x40", height and width; 0 is that of the data set.
      label: the TFDS feature that holds the class; "" finds it.
      fit: one of `tfadv.datasets.FITS`, see `tfadv.datasets.DatasetSpec`; "" is that of the data set.
      allocate: creates the array of the images from its shape and type.

    Returns:
      The images of all official splits, one split after the other, each in its stored order.

    Raises:
      UserError: the data set is absent and can't be prepared, a file of it is damaged, it is no image classification,
        or its images have several sizes and none is given.
    """
    read, spec = reader(name), find(name, fit)
    if read:
        module, path = read
        # Files come class by class; evaluations take the first images, which must be of all classes.
        return importlib.import_module(module).load(path, image_size, spec.fit, allocate).shuffled()
    return _load_tfds(name, spec, data_dir, image_size, label, allocate)


def _load_tfds(
    name: str, spec: DatasetSpec, data_dir: str, image_size: int | str, label: str, allocate: Allocate
) -> ImageDataset:
    builder = _prepared_builder(name, spec, data_dir)
    image_key, label_key, channels, own_size = _features(name, builder.info, label or spec.label)
    image_size = image_size or spec.image_size or own_size
    if not image_size:
        raise UserError(f"the images of {name} have several sizes: give --image_size.")

    def image_and_label(example):
        image = fitted(example[image_key], image_size, spec.fit)
        return tf.ensure_shape(image, (*sides(image_size), channels)), example[label_key]

    sizes = {split: builder.info.splits[split].num_examples for split in sorted(builder.info.splits)}
    total = sum(sizes.values())
    images = allocate((total, *sides(image_size), channels), np.uint8)
    labels = np.empty(total, np.int64)
    official, done = {}, 0
    # Only the features used are decoded: oxford_iiit_pet also has masks and boxes.
    decoders = tfds.decode.PartialDecoding({image_key: True, label_key: True})
    try:
        for split, size in sizes.items():
            # By default, TFDS mixes the files, and keeps what it reads from small ones for a second pass.
            in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
            dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=in_order)
            dataset = prefetched(dataset.map(image_and_label, tf.data.AUTOTUNE).batch(1024))
            official[split] = range(done, done + size)
            for x, y in dataset.as_numpy_iterator():
                images[done : done + len(y)], labels[done : done + len(y)] = x, y
                done += len(y)
    except (tf.errors.OpError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"data set {name} in {builder.data_path} is damaged ({reason}): provide that folder again.")
    if done != total:
        raise UserError(f"data set {name} in {builder.data_path} holds {done} images of {total}: provide it again.")
    class_names = list(builder.info.features[label_key].names)
    random_order = not builder.info.disable_shuffling  # else TFDS has shuffled them when it wrote the files
    dataset = ImageDataset(images, labels, class_names, builder.info.full_name, official, random_order)
    if labels.min(initial=0) < 0:
        LOG.warning("%s: %d images without a class are left out", name, (labels < 0).sum())
        dataset = dataset.labeled()
    return dataset


def fitted(image: tf.Tensor | np.ndarray, image_size: int | str, fit: str) -> tf.Tensor | np.ndarray:
    """Brings images to one size.

    Args:
      image: uint8 (…, H, W, C), one image or several.
      image_size: pixels per side, or a text such as "24x40", height and width.
      fit: one of `tfadv.datasets.FITS`, see `tfadv.datasets.DatasetSpec`.

    Returns:
      uint8 (…, height, width, C), the input itself if it has that size; scaled images are rounded.
    """
    height, width = sides(image_size)
    if image.shape[-3:-1] == (height, width):
        return image

    def scale(part=image):
        scaled = tf.image.resize(part, (height, width), antialias=fit in ("resize", "pad"))
        return tf.cast(tf.round(tf.clip_by_value(scaled, 0, 255)), tf.uint8)

    if fit == "pad":
        fits = tf.reduce_all(tf.shape(image)[-3:-1] <= (height, width))  # else padding would cut off the border
        return tf.cond(fits, lambda: tf.image.resize_with_crop_or_pad(image, height, width), scale)
    if fit == "crop":
        rows, columns = tf.unstack(tf.shape(image)[-3:-1])
        cut_rows = tf.clip_by_value(columns * height // width, 1, rows)
        cut_columns = tf.clip_by_value(rows * width // height, 1, columns)
        top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
        return scale(tf.convert_to_tensor(image)[..., top : top + cut_rows, left : left + cut_columns, :])
    return scale()


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Grey images as three equal channels, or colour images as grey, weighted as by `tf.image.rgb_to_grayscale`.

    Args:
      images: uint8 (N, H, W, 1 or 3).
      channels: 1 or 3.

    Returns:
      uint8 (N, H, W, channels); the input itself if it has so many.
    """
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)  # of red, green and blue in 1/65536, as in Pillow
    return ((images.astype(np.uint32) @ weights + 32768) >> 16).astype(np.uint8)[..., None]


def _features(name: str, info: tfds.core.DatasetInfo, label: str) -> tuple[str, str, int, int | str]:
    """(feature of the image, feature of the class, channels, size of the images or 0 where they have several).

    Raises:
      UserError: the data set has no image, no class or several, or another type of image; the message lists them.
    """
    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    classes = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised = info.supervised_keys if info.supervised_keys and len(info.supervised_keys) == 2 else (None, None)
    if supervised[0] in images:
        images = [supervised[0]]
    if label or supervised[1] in classes:
        classes = [key for key in classes if key == (label or supervised[1])]
    listing = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    if len(images) != 1:
        raise UserError(f"{name} has {len(images)} images per example, must have one. Its features: {listing}.")
    if len(classes) != 1:
        raise UserError(f"select the feature of {name} that holds the class with --label. Its features: {listing}.")
    height, width, channels = features[images[0]].shape
    if channels not in (1, 3) or np.dtype(features[images[0]].np_dtype) != np.uint8:
        dtype = np.dtype(features[images[0]].np_dtype).name
        raise UserError(f"the images of {name} are {dtype} with {channels} channels, must be uint8 with 1 or 3.")
    return images[0], classes[0], channels, as_size(f"{height}x{width}") if height and width else 0


def _prepared_builder(name: str, spec: DatasetSpec, data_dir: str) -> tfds.core.DatasetBuilder:
    """A TFDS builder whose files are in place."""
    if "/" in name and os.path.isdir(os.path.expanduser(name)):
        try:
            return tfds.builder_from_directory(os.path.expanduser(name))
        except Exception as error:  # of many kinds: no, other or damaged files
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{name} is not the folder of a prepared TFDS data set, NAME/1.0.0 ({reason}).")
    embedded = spec.builder is not None  # needs no download
    if spec.builder is not None:
        module, attribute = spec.builder.split(":")
        builder_class = getattr(importlib.import_module(module), attribute)
    else:
        builder_class = functools.partial(tfds.builder, name)
    try:
        builder = builder_class(data_dir=os.path.expanduser(data_dir))
    except Exception as error:  # of many kinds: an unknown version, configuration or name
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"TFDS has no data set {name} of this version or configuration ({reason}).")
    if builder.info.splits.total_num_examples:
        return builder
    folder = pathlib.Path(builder.data_path)
    ways = (
        f'Provide it: prepare it where there is a network (python -c "import tensorflow_datasets as tfds; '
        f"tfds.load('{name}', data_dir='DIR')\"), copy DIR here and give --data_dir=DIR."
    )
    if not embedded and not _online():
        raise UserError(f"data set {name} is not in {folder}, and there is no network to download it. {ways}")
    if embedded:  # it takes a second; a download shows its progress
        tfds.disable_progress_bar()
    quiet = contextlib.redirect_stdout(None) if embedded else contextlib.nullcontext()
    try:
        with quiet:
            builder.download_and_prepare()
    except PermissionError as error:
        raise UserError(f"can't write data set {name} to {folder} ({error.strerror}): give a writable --data_dir.")
    except Exception as error:  # of many kinds: files to be provided by hand, a broken download, a full disk
        builder = builder_class(data_dir=os.path.expanduser(data_dir))
        if builder.info.splits.total_num_examples:  # another process has prepared it in the meantime
            return builder
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"data set {name} is not in {folder}, and preparing it there failed ({reason}). {ways}")
    return builder


def _online() -> bool:
    """Whether downloads have a chance: TFDS itself retries for minutes before it gives up."""
    if any(os.environ.get(key) for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=5).close()
    except OSError:
        return False
    return True
