"""TFDS data sets → uint8 images in memory, all official splits pooled."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import socket

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv.datasets import SOURCES
from tfadv.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pool:
    """All images of a data set, in a fixed order.

    Attributes:
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      class_names: list of str, one a class.
      full_name: str, the TFDS name and version, such as "mnist/3.0.1".
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    full_name: str

    def digest(self):
        """str, the SHA-256 of images and labels: binds a division to these very pixels."""
        sha = hashlib.sha256(repr(self.images.shape).encode())
        sha.update(self.images)
        sha.update(self.labels)
        return sha.hexdigest()


def load(name, data_dir, image_size):
    """Reads a data set through TFDS, making or downloading it where it is absent.

    Args:
      name: str, a key of `SOURCES`.
      data_dir: str, home of the TFDS data sets.
      image_size: int, pixels of a side.

    Returns:
      A `Pool`: the official splits one after the other, each in its stored order.

    Raises:
      UserError: the data set is absent and can't be made, or a file of it is damaged.
    """
    source = SOURCES[name]
    builder = _prepared(name, data_dir)

    def example_to_pair(example):
        image = example["image"]
        if source.fit == "pad" and image_size >= image.shape[0]:  # smaller would cut the picture's border off
            image = tf.image.resize_with_crop_or_pad(image, image_size, image_size)
        elif image_size != image.shape[0] or image_size != image.shape[1]:
            image = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)
        return tf.ensure_shape(image, (image_size, image_size, source.channels)), example[source.label]

    splits = sorted(builder.info.splits)
    total = sum(builder.info.splits[s].num_examples for s in splits)
    images = np.empty((total, image_size, image_size, source.channels), np.uint8)
    labels = np.empty(total, np.int64)
    done = 0
    # Only the features used are decoded: oxford_iiit_pet also carries masks and boxes.
    decoders = tfds.decode.PartialDecoding({"image": True, source.label: True})
    try:
        for split in splits:
            in_order = tfds.ReadConfig(interleave_cycle_length=1)  # the default mixes the shards
            dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=in_order)
            dataset = dataset.map(example_to_pair, tf.data.AUTOTUNE).batch(1024).prefetch(2)
            for x, y in dataset.as_numpy_iterator():
                images[done : done + len(y)], labels[done : done + len(y)] = x, y
                done += len(y)
    except (tf.errors.OpError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"data set {name} in {builder.data_path} is damaged ({reason}): provide that folder anew.")
    if done != total:
        raise UserError(f"data set {name} in {builder.data_path} holds {done} images of {total}: provide it anew.")
    return Pool(images, labels, list(builder.info.features[source.label].names), builder.info.full_name)


def _prepared(name, data_dir):
    """A TFDS builder whose files are in place."""
    data_dir = os.path.expanduser(data_dir)
    if name == "digits":
        from tfadv.datasets.digits import Digits as make
    else:
        make = tfds.builder_cls(name)
    builder = make(data_dir=data_dir)
    if builder.info.splits.total_num_examples:
        return builder
    folder = pathlib.Path(builder.data_path)
    ways = (
        f'Provide it: prepare it where there is a network (python -c "import tensorflow_datasets as tfds; '
        f"tfds.load('{name}', data_dir='DIR')\"), copy DIR here and give --data_dir=DIR."
    )
    if name != "digits" and not _online():
        raise UserError(f"data set {name} is not in {folder}, and there is no network to download it. {ways}")
    # Nobody needs to watch a second's work; a download shows its progress.
    quiet = contextlib.redirect_stdout(None) if name == "digits" else contextlib.nullcontext()
    if name == "digits":
        tfds.disable_progress_bar()
    try:
        with quiet:
            builder.download_and_prepare()
    except PermissionError as error:
        raise UserError(f"can't write data set {name} to {folder} ({error.strerror}): give a writable --data_dir.")
    except OSError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"data set {name} is not in {folder}, and making it there failed ({reason}). {ways}")
    return builder


def _online():
    """Whether downloads have a chance: TFDS itself retries for minutes before it gives up."""
    if any(os.environ.get(key) for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=5).close()
    except OSError:
        return False
    return True
