"""The surrogate's adversarial samples: attack → TFRecords (a TFDS folder) → `Samples`.

A sample is stored exactly and small: the image as it came (uint8, PNG) and the
perturbation as int8 in units of eps / 127, from which the adversarial image of
every eps follows (`datasets.batches.perturbed`).  Eight-bit adversarial images
would not be the attack's: eps 0.01 is 2.55 grey levels.
"""

import collections
import concurrent.futures
import dataclasses
import math
import os
import pathlib
import sys
import threading

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tfadv.attacks.fgsm import direction
from tfadv.attacks.gradient import xla
from tfadv.datasets.batches import Samples, to_float
from tfadv.runtime.devices import Devices
from tfadv.datasets.encoding import encode
from tfadv.errors import UserError

VERSION = "1.0.0"
# A shard is also what a killed run has to make again.
MOST_SAMPLES = 4096
MOST_BYTES = 128 * 2**20
MOST_WAITING = 4  # batches


def perturbations(model, images, labels, *, batch_size, jit_compile="auto", devices=None, progress=None):
    """The surrogate's FGSM perturbations.

    Args:
      model: the surrogate, a Keras model that returns logits.
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      batch_size: int.
      jit_compile: "auto", "true" or "false".
      devices: `Devices`; None is the one device.
      progress: called after each batch with the number of its images, or None.

    Yields:
      int8 (B, H, W, C), batch after batch, the last one smaller: 127 * sign of the
      gradient (127 and not 1: iterative attacks end between the bounds).
    """
    perturb = (devices or Devices()).joining(_perturb, model, jit_compile=jit_compile)
    for start in range(0, len(labels), batch_size):
        # Every batch is full (it wraps around), so that XLA compiles one shape only.
        rows = np.arange(start, start + batch_size) % len(labels)
        done = min(batch_size, len(labels) - start)
        yield perturb(to_float(images[rows]), labels[rows]).numpy()[:done]
        if progress:
            progress(done)


def _perturb(model, x, y, *, jit_compile):
    return tf.cast(127 * direction(model, x, y, jit_compile=xla(jit_compile)), tf.int8)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: rows `start` to `stop` of a split, the file `index` of `of`."""

    split: str
    index: int
    of: int
    start: int
    stop: int

    def __len__(self):
        return self.stop - self.start


def shards(counts, shape):
    """list of `Shard`s that hold all splits.

    Args:
      counts: dict of split name → number of samples.
      shape: (H, W, C) of the images.
    """
    most = min(MOST_SAMPLES, max(1, MOST_BYTES // sample_bytes(shape)))
    made = []
    for split, n in counts.items():
        of = max(1, -(-n // most))
        made += [Shard(split, i, of, n * i // of, n * (i + 1) // of) for i in range(of)]
    return made


def sample_bytes(shape):
    """int, the bytes that a sample takes at most, of incompressible images and perturbations."""
    return 2 * math.prod(shape) + shape[0] + 300


def write_shard(folder, name, shard, images, labels, ids, batches):
    """Writes one TFRecord file.

    Args:
      folder: path.
      name: str, the TFDS name.
      shard: `Shard`.
      images: uint8 (N, H, W, C), those of the shard alone.
      labels: int64 (N,).
      ids: int64 (N,).
      batches: yields their perturbations, int8 (B, H, W, C), in order.
    """
    path = _template(folder, name, shard.split).sharded_filepath(shard_index=shard.index, num_shards=shard.of)
    row = 0

    def append(batch):
        nonlocal row
        rows = slice(row, row + len(batch))
        for record in encode(images[rows], batch, labels[rows], ids[rows]):
            writer.write(record)
        row += len(batch)

    with (
        tf.io.TFRecordWriter(str(path)) as writer,
        concurrent.futures.ThreadPoolExecutor(1, initializer=_stand_back) as thread,
    ):
        waiting = collections.deque()
        for batch in batches:  # the attack works on a batch while those before are written
            waiting.append(thread.submit(append, batch))
            if len(waiting) > MOST_WAITING:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    if row != len(labels):
        raise ValueError(f"{row} perturbations for {len(labels)} images of {path.name}.")


def write_metadata(folder, name, written, shape, class_names, description):
    """Makes a TFDS folder, which `tfds.builder_from_directory` and `tfds.load` read, of the TFRecord files in it.

    Args:
      folder: path, `…/<name>/<VERSION>`.
      name: str, the TFDS name.
      written: list of all `Shard`s.
      shape: (H, W, C) of the images.
      class_names: list of str.
      description: str, for dataset_info.json.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "perturbation": tfds.features.Tensor(shape=shape, dtype=np.int8, encoding="zlib"),
            "label": tfds.features.ClassLabel(names=class_names),
            "id": tfds.features.Scalar(np.int64),
        }
    )
    split_infos = []
    for split in dict.fromkeys(shard.split for shard in written):
        own, template = [s for s in written if s.split == split], _template(folder, name, split)
        files = [template.sharded_filepath(shard_index=s.index, num_shards=s.of) for s in own]
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(s) for s in own],
                num_bytes=sum(os.path.getsize(file) for file in files),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=split_infos, description=description, check_data=False
    )


def _template(folder, name, split):
    return tfds.core.ShardedFileTemplate(
        data_dir=pathlib.Path(folder), dataset_name=name, split=split, filetype_suffix="tfrecord"
    )


def _stand_back():
    """Lets this thread work only where the attack leaves a core idle.

    The attack shares each convolution out to all cores in equal parts, so a
    thread that takes half of one core from it holds up all the others, too.
    """
    if sys.platform == "linux":  # elsewhere this would be the priority of the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def read(folder, split, epsilons):
    """Reads the surrogate's samples of one split.

    Args:
      folder: path of the TFDS folder.
      split: "train", "validation" or "test".
      epsilons: floats, the levels at which each image is seen; 0 is the clean image.

    Returns:
      (`Samples` in the order of writing, ids int64 (N,)).

    Raises:
      UserError: the folder is damaged.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        in_order = tfds.ReadConfig(interleave_cycle_length=1)  # the default mixes the shards
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=in_order)
        batches = list(dataset.batch(1024).prefetch(2).as_numpy_iterator())
    except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the surrogate's samples in {folder} can't be read: {str(error).splitlines()[0][:200]}")
    columns = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    expected = builder.info.splits[split].num_examples
    if len(columns["label"]) != expected:
        raise UserError(f"{folder} holds {len(columns['label'])} samples of split {split} instead of {expected}.")
    samples = Samples(columns["image"], columns["label"], columns["perturbation"], tuple(epsilons))
    return samples, columns["id"]
