"""The surrogate's adversarial samples: attack → TFRecords (a TFDS folder) → `Samples`.

A sample is stored exactly and small: the image as it came (uint8, PNG) and the
perturbation as int8 in units of eps / 127, from which the adversarial image of
every eps follows (`datasets.batches.perturbed`).  Eight-bit adversarial images
would not be the attack's: eps 0.01 is 2.55 grey levels.
"""

import collections
import concurrent.futures
import os
import pathlib
import sys
import threading

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfadv.attacks.fgsm import direction
from tfadv.attacks.gradient import xla
from tfadv.datasets.batches import Samples, to_float
from tfadv.encoding import encode
from tfadv.errors import UserError

VERSION = "1.0.0"
SHARD_SIZE = 4096  # samples
MOST_WAITING = 4  # batches


def perturbations(model, images, labels, *, batch_size, jit_compile="auto", progress=None):
    """The surrogate's FGSM perturbations.

    Args:
      model: the surrogate, a Keras model that returns logits.
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      batch_size: int.
      jit_compile: "auto", "true" or "false".
      progress: called after each batch with the number of its images, or None.

    Yields:
      int8 (B, H, W, C), batch after batch, the last one smaller: 127 * sign of the
      gradient (127 and not 1: iterative attacks end between the bounds).
    """
    for start in range(0, len(labels), batch_size):
        # Every batch is full (it wraps around), so that XLA compiles one shape only.
        rows = np.arange(start, start + batch_size) % len(labels)
        where = direction(model, to_float(images[rows]), labels[rows], jit_compile=xla(jit_compile))
        done = min(batch_size, len(labels) - start)
        yield tf.cast(127 * where, tf.int8).numpy()[:done]
        if progress:
            progress(done)


def write(folder, name, splits, class_names, make_perturbations, description):
    """Writes a TFDS folder, which `tfds.builder_from_directory` and `tfds.load` read.

    Args:
      folder: path, `…/<name>/<VERSION>`.
      name: str, the TFDS name.
      splits: dict of split name → (images uint8 (N, H, W, C), labels int64 (N,), ids int64 (N,)).
      class_names: list of str.
      make_perturbations: function of (images, labels, progress) that yields int8 batches.
      description: str, for dataset_info.json.

    Returns:
      dict of split name → number of samples.
    """
    shape = next(iter(splits.values()))[0].shape[1:]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "perturbation": tfds.features.Tensor(shape=shape, dtype=np.int8, encoding="zlib"),
            "label": tfds.features.ClassLabel(names=class_names),
            "id": tfds.features.Scalar(np.int64),
        }
    )
    split_infos = []
    with tqdm(total=sum(len(labels) for _, labels, _ in splits.values()), unit="image", desc=name, disable=None) as bar:
        for split, (images, labels, ids) in splits.items():
            batches = make_perturbations(images, labels, bar.update)
            lengths, size = _write_split(folder, name, split, images, labels, ids, batches)
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=size,
                    filename_template=_template(folder, name, split),
                )
            )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=split_infos, description=description, check_data=False
    )
    return {info.name: info.num_examples for info in split_infos}


def _template(folder, name, split=None):
    return tfds.core.ShardedFileTemplate(
        data_dir=pathlib.Path(folder), dataset_name=name, split=split, filetype_suffix="tfrecord"
    )


def _write_split(folder, name, split, images, labels, ids, batches):
    """Writes one split; returns the numbers of samples of its shards and its bytes."""
    shards = max(1, -(-len(labels) // SHARD_SIZE))
    ends = [len(labels) * (i + 1) // shards for i in range(shards)]
    template = _template(folder, name, split)
    row, size, writer = 0, 0, None

    def append(batch):
        nonlocal row, size, writer
        rows = slice(row, row + len(batch))
        for record in encode(images[rows], batch, labels[rows], ids[rows]):
            if writer is None:
                shard = sum(end <= row for end in ends)  # how many shards are full
                path = template.sharded_filepath(shard_index=shard, num_shards=shards)
                writer = tf.io.TFRecordWriter(str(path))
            writer.write(record)
            size += len(record)
            row += 1
            if row in ends:
                writer.close()
                writer = None

    with concurrent.futures.ThreadPoolExecutor(1, initializer=_stand_back) as thread:
        waiting = collections.deque()
        for batch in batches:  # the attack works on a batch while those before are written
            waiting.append(thread.submit(append, batch))
            if len(waiting) > MOST_WAITING:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    if row != len(labels):
        raise ValueError(f"{row} perturbations for {len(labels)} images of split {split}.")
    return np.diff([0, *ends]).tolist(), size


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
