"""TFDS data sets → uint8 images in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import os
import pathlib
import socket

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv.datasets import DATASETS, DatasetSpec
from tfadv.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """All images of a data set, in a fixed order.

    Attributes:
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      class_names: one per class.
      full_name: the TFDS name and version, such as "mnist/3.0.1".
      official_splits: TFDS split name → positions of its images.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    full_name: str
    official_splits: dict[str, range]

    def digest(self) -> str:
        """The SHA-256 of images and labels: ties splits to exactly these pixels."""
        sha = hashlib.sha256(repr(self.images.shape).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()


def load(name: str, data_dir: str, image_size: int) -> ImageDataset:
    """Reads a data set through TFDS, and prepares or downloads it where it is absent.

    Args:
      name: a name in `DATASETS`.
      data_dir: folder of the TFDS data sets.
      image_size: pixels per side.

    Returns:
      The images of all official splits, one split after the other, each in its stored order.

    Raises:
      UserError: the data set is absent and can't be prepared, or a file of it is damaged.
    """
    spec: DatasetSpec = DATASETS[name]
    builder = _prepared_builder(name, spec, data_dir)

    def image_and_label(example):
        image = example["image"]
        if spec.fit == "pad" and image_size >= image.shape[0]:  # a smaller size would cut off the border
            image = tf.image.resize_with_crop_or_pad(image, image_size, image_size)
        elif image_size != image.shape[0] or image_size != image.shape[1]:
            image = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)
        return tf.ensure_shape(image, (image_size, image_size, spec.channels)), example[spec.label]

    sizes = {split: builder.info.splits[split].num_examples for split in sorted(builder.info.splits)}
    total = sum(sizes.values())
    images = np.empty((total, image_size, image_size, spec.channels), np.uint8)
    labels = np.empty(total, np.int64)
    official, done = {}, 0
    # Only the features used are decoded: oxford_iiit_pet also has masks and boxes.
    decoders = tfds.decode.PartialDecoding({"image": True, spec.label: True})
    try:
        for split, size in sizes.items():
            in_order = tfds.ReadConfig(interleave_cycle_length=1)  # the default mixes the files
            dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=in_order)
            dataset = dataset.map(image_and_label, tf.data.AUTOTUNE).batch(1024).prefetch(2)
            official[split] = range(done, done + size)
            for x, y in dataset.as_numpy_iterator():
                images[done : done + len(y)], labels[done : done + len(y)] = x, y
                done += len(y)
    except (tf.errors.OpError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"data set {name} in {builder.data_path} is damaged ({reason}): provide that folder again.")
    if done != total:
        raise UserError(f"data set {name} in {builder.data_path} holds {done} images of {total}: provide it again.")
    class_names = list(builder.info.features[spec.label].names)
    return ImageDataset(images, labels, class_names, builder.info.full_name, official)


def _prepared_builder(name: str, spec: DatasetSpec, data_dir: str) -> tfds.core.DatasetBuilder:
    """A TFDS builder whose files are in place."""
    embedded = spec.builder is not None  # needs no download
    if spec.builder is not None:
        module, attribute = spec.builder.split(":")
        builder_class = getattr(importlib.import_module(module), attribute)
    else:
        builder_class = tfds.builder_cls(name)
    builder = builder_class(data_dir=os.path.expanduser(data_dir))
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
    except OSError as error:
        builder = builder_class(data_dir=os.path.expanduser(data_dir))
        if builder.info.splits.total_num_examples:  # another process has prepared it in the meantime
            return builder
        reason = str(error).splitlines()[0][:200]
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
