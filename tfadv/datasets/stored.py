"""Stored adversarial samples: perturbations → TFRecords (a TFDS folder) → `Samples`.

A sample is stored exactly and small: the original image (uint8, PNG) and the
perturbation as int8 in units of eps / 127, from which the adversarial image of
every eps follows (`datasets.batches.perturbed`).  Adversarial images of eight
bits would differ from the attack's: eps 0.01 is 2.55 grey levels.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
import pathlib
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv.datasets.batches import Samples, prefetched
from tfadv.datasets.storage import Allocate, Images, Signs
from tfadv.errors import UserError

VERSION = "1.0.0"
# One file is also what a killed run has to repeat.
MAX_SAMPLES_PER_FILE = 4096
MAX_BYTES_PER_FILE = 128 * 2**20
SAMPLES_PER_TASK = 32  # that a thread encodes at a time
MAX_WAITING_TASKS = 16  # each holds its images and perturbations
SAMPLES_READ = 256  # at a time


@dataclasses.dataclass(frozen=True)
class SampleFile:
    """One TFRecord file: rows `start` to `stop` of a split; the file `index` of `count`."""

    split: str
    index: int
    count: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def sample_files(split_sizes: Mapping[str, int], shape: tuple[int, int, int]) -> list[SampleFile]:
    """Plans the TFRecord files that hold all splits.

    Args:
      split_sizes: split name → number of samples.
      shape: (H, W, C) of the images.
    """
    most = min(MAX_SAMPLES_PER_FILE, max(1, MAX_BYTES_PER_FILE // sample_bytes(shape)))
    files = []
    for split, n in split_sizes.items():
        count = max(1, -(-n // most))
        files += [SampleFile(split, i, count, n * i // count, n * (i + 1) // count) for i in range(count)]
    return files


def sample_bytes(shape: tuple[int, int, int]) -> int:
    """The most bytes that one sample takes, with an incompressible image and perturbation."""
    return 2 * math.prod(shape) + shape[0] + 300


def encode(images: np.ndarray, perturbations: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> Iterator[bytes]:
    """Encodes samples as `tf.train.Example`s, which TFDS decodes.

    Little effort goes into compression: neither photographs nor signs of gradients
    repeat themselves, so a search for long repetitions costs time and saves little.

    Args:
      images: uint8 (N, H, W, C), C 1 or 3.
      perturbations: int8 (N, H, W, C).
      labels: int (N,).
      ids: int (N,).

    Yields:
      The serialized samples, in order.
    """
    example = tf.train.Example()  # reused: creating one takes longer than filling it
    feature = example.features.feature
    for png, perturbation, label, sample_id in zip(_encode_pngs(images).numpy(), perturbations, labels, ids):
        deflate = zlib.compressobj(strategy=zlib.Z_RLE)
        feature["image"].bytes_list.value[:] = [png]
        feature["perturbation"].bytes_list.value[:] = [deflate.compress(perturbation.tobytes()) + deflate.flush()]
        feature["label"].int64_list.value[:] = [label]
        feature["id"].int64_list.value[:] = [sample_id]
        yield example.SerializeToString(deterministic=True)  # else the order of the features depends on the process


def _encoded(*samples: np.ndarray) -> list[bytes]:
    return list(encode(*samples))


@tf.function(input_signature=[tf.TensorSpec((None, None, None, None), tf.uint8)])
def _encode_pngs(images: tf.Tensor) -> tf.Tensor:
    """PNG files, string (N,), of uint8 (N, H, W, C); one after the other, because each thread encodes its own."""
    return tf.map_fn(
        lambda image: tf.io.encode_png(image, compression=1),
        images,
        fn_output_signature=tf.string,
        parallel_iterations=1,
    )


def write_file(
    folder: pathlib.Path,
    name: str,
    file: SampleFile,
    samples: tuple[Images, np.ndarray, np.ndarray],
    batches: Iterable[np.ndarray],
) -> None:
    """Writes one TFRecord file.

    Args:
      folder: where to write.
      name: the TFDS name.
      file: which file this is.
      samples: images uint8 (N, H, W, C), labels int64 (N,) and ids int64 (N,) of this file alone.
      batches: yields their perturbations, int8 (B, H, W, C), in order.

    Raises:
      ValueError: there are more or fewer perturbations than images.
    """
    images, labels, ids = samples
    path = _template(folder, name, file.split).sharded_filepath(shard_index=file.index, num_shards=file.count)

    def tasks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        row = 0
        for batch in batches:
            for start in range(0, len(batch), SAMPLES_PER_TASK):
                part = batch[start : start + SAMPLES_PER_TASK]
                rows = slice(row, row + len(part))
                yield images[rows], part, labels[rows], ids[rows]
                row = rows.stop
        if row != len(labels):
            raise ValueError(f"{row} perturbations for {len(labels)} images of {path.name}.")

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in _encoded_in_threads(tasks()):
            writer.write(record)


def _encoded_in_threads(tasks: Iterable[tuple]) -> Iterator[bytes]:
    """The records of all tasks in order; the next tasks are prepared while threads encode those before."""
    _encode_pngs.get_concrete_function()  # if several threads trace it at once, TensorFlow warns of retracing
    encoders = concurrent.futures.ThreadPoolExecutor(_encoders(), initializer=_lower_priority)
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for task in tasks:
            waiting.append(encoders.submit(_encoded, *task))
            while waiting and (waiting[0].done() or len(waiting) > MAX_WAITING_TASKS):
                yield from waiting.popleft().result()
        for encoded in waiting:
            yield from encoded.result()
    finally:
        encoders.shutdown(cancel_futures=True)


def write_metadata(
    folder: pathlib.Path,
    name: str,
    files: Sequence[SampleFile],
    *,
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    description: str,
) -> None:
    """Completes a TFDS folder, which `tfds.builder_from_directory` and `tfds.load` read, from the TFRecord files in it.

    Args:
      folder: `…/<name>/<VERSION>`.
      name: the TFDS name.
      files: all files.
      shape: (H, W, C) of the images.
      class_names: one per class.
      description: text for dataset_info.json.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "perturbation": tfds.features.Tensor(shape=shape, dtype=np.int8, encoding="zlib"),
            "label": tfds.features.ClassLabel(names=list(class_names)),
            "id": tfds.features.Scalar(np.int64),
        }
    )
    split_infos = []
    for split in dict.fromkeys(file.split for file in files):
        own, template = [f for f in files if f.split == split], _template(folder, name, split)
        paths = [template.sharded_filepath(shard_index=f.index, num_shards=f.count) for f in own]
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(f) for f in own],
                num_bytes=sum(os.path.getsize(path) for path in paths),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=split_infos, description=description, check_data=False
    )


def _template(folder: pathlib.Path, name: str, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=pathlib.Path(folder), dataset_name=name, split=split, filetype_suffix="tfrecord"
    )


def _encoders() -> int:
    """The number of threads: an attack on the CPU needs the cores itself."""
    return max(1, (os.cpu_count() or 1) // 2) if tf.config.list_physical_devices("GPU") else 1


def _lower_priority() -> None:
    """Lets this thread work only where the attack leaves a core idle.

    The attack splits each convolution into equal parts for all cores, so a
    thread that takes half of one core delays all the others, too.
    """
    if sys.platform == "linux":  # elsewhere this would be the priority of the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def read(
    folder: pathlib.Path,
    split: str,
    epsilons: Sequence[float],
    allocate: Allocate = np.empty,
    images: Images | None = None,
) -> tuple[Samples, np.ndarray]:
    """Reads the stored samples of one split.

    Args:
      folder: the TFDS folder.
      split: "train", "validation" or "test".
      epsilons: the levels at which each image is seen; 0 is the clean image.
      allocate: creates the arrays of images and perturbations from their shape and type.
      images: the images of these samples, where they are in memory already: then those of the files are not decoded,
        which would be a second copy.  The caller compares the ids.  None reads the images of the files.

    Returns:
      (samples in the order of writing, ids int64 (N,)).  Perturbations of FGSM take two bits per value.

    Raises:
      UserError: the folder is damaged.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        # By default, TFDS mixes the files, and keeps what it reads from small ones for a second pass.
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        features = [name for name in builder.info.features if name != "image" or images is None]
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=in_order,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(features, True)),
        )
        expected, done = builder.info.splits[split].num_examples, 0
        shape = (expected, *builder.info.features["image"].shape)
        arrays: dict[str, Any] = {
            "perturbation": Signs.allocate(shape, allocate),
            "label": np.empty(expected, np.int64),
            "id": np.empty(expected, np.int64),
        }
        if images is None:
            images = arrays["image"] = allocate(shape, np.uint8)
        for batch in prefetched(dataset.batch(SAMPLES_READ)).as_numpy_iterator():
            rows = slice(done, done + len(batch["label"]))
            signs = arrays["perturbation"]
            if isinstance(signs, Signs) and not Signs.can_hold(batch["perturbation"]):  # of another attack than FGSM
                arrays["perturbation"] = allocate(shape, np.int8)
                for first in range(0, done, SAMPLES_READ):
                    earlier = slice(first, min(first + SAMPLES_READ, done))
                    arrays["perturbation"][earlier] = signs[earlier]
            for name, array in arrays.items():
                array[rows] = batch[name]
            done = rows.stop
    except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the stored samples in {folder} can't be read: {str(error).splitlines()[0][:200]}")
    if done != expected:
        raise UserError(f"{folder} holds {done} samples of split {split} instead of {expected}.")
    return Samples(images, arrays["label"], arrays["perturbation"], tuple(epsilons)), arrays["id"]
