"""One epoch over more images than fit into memory, which lie in a file: memory in use and the rate.

    python -m benchmarks.larger_than_memory --gigabytes=20

The images are random, each brighter the higher its class, so that the tiny network has something to learn.
"""

from __future__ import annotations

import pathlib
import threading
import time

import numpy as np
from absl import app, flags

import tfadv  # noqa: F401  before Keras and TensorFlow
from benchmarks.memory import gigabytes
from tfadv import models
from tfadv.datasets.batches import Samples
from tfadv.datasets.storage import Images, Storage, take
from tfadv.objectives.cross_entropy import cross_entropy
from tfadv.training import Trainer, TrainingSettings

FLAGS = flags.FLAGS
flags.DEFINE_float("gigabytes", 20.0, "Size of all images.")
flags.DEFINE_integer("image_size", 128, "Height and width of the images in pixels.")
flags.DEFINE_integer("batch_size", 128, "Images per step.")
flags.DEFINE_string("folder", ".", "Where the file is created.")
CLASSES = 10
BLOCK = 1000  # images written at a time


def images_on_disk(number: int, size: int, folder: pathlib.Path) -> tuple[Images, np.ndarray]:
    """(uint8 (N, size, size, 3) in a file, labels int64 (N,))."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, number)
    images = Storage("false", folder).allocate((number, size, size, 3), np.uint8)
    noise = rng.integers(0, 100, (BLOCK, size, size, 3), np.uint8)
    for start in range(0, number, BLOCK):
        rows = labels[start : start + BLOCK]
        images[start : start + len(rows)] = noise[: len(rows)] + (15 * rows[:, None, None, None]).astype(np.uint8)
    return images, labels


class MemoryWatch(threading.Thread):
    """Notes the anonymous memory ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gigabytes: list[float] = []
        self._end = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._end.wait(0.1):
            self.gigabytes.append(gigabytes("RssAnon"))

    def stop(self) -> list[float]:
        """What was noted."""
        self._end.set()
        self.join()
        return self.gigabytes


def main(_: list[str]) -> None:
    """Prints the figures."""
    size = FLAGS.image_size
    number = int(FLAGS.gigabytes * 1e9 / size**2 / 3)
    started = time.monotonic()
    images, labels = images_on_disk(number, size, pathlib.Path(FLAGS.folder))
    print(f"{number:,} images, {images.nbytes / 1e9:.2f} GB, written in {time.monotonic() - started:.0f} s", flush=True)
    held_out = min(BLOCK, number // 10)
    training = Samples(take(images, np.arange(held_out, number)), labels[held_out:])
    validation = Samples(take(images, np.arange(held_out)), labels[:held_out])
    model = models.build("resnet_tiny", (size, size, 3), CLASSES)
    trainer = Trainer(model, weight_decay=0.0, objective=cross_entropy)
    watch, started = MemoryWatch(), time.monotonic()
    watch.start()
    record = trainer.fit(training, validation, TrainingSettings(1, FLAGS.batch_size, 0.05, 1))
    seconds, memory = time.monotonic() - started, watch.stop()
    rate = record["gradients"] / seconds
    print(f"one epoch in {seconds:.0f} s: {rate:,.0f} images/s, {rate * size**2 * 3 / 1e6:,.0f} MB/s")
    print(f"validation accuracy {record['history']['val_accuracy'][0]:.1%}")
    tenths = [part.max() for part in np.array_split(memory, 10) if len(part)]
    print("most anonymous memory in each tenth of the epoch, GB:", " ".join(f"{m:.2f}" for m in tenths))


if __name__ == "__main__":
    app.run(main)
