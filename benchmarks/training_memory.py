"""Memory of a training step: `python -m benchmarks.training_memory --parts=4 --rematerialize`.

Trains ResNet50 with N-FGSM on a batch of random images.  Memory is that of the process, so each setting needs a process
of its own.
"""

from __future__ import annotations

import time

import numpy as np
from absl import app, flags

from benchmarks.memory import gigabytes
from tfadv import models
from tfadv.objectives.nfgsm import NFGSM
from tfadv.training import Trainer

FLAGS = flags.FLAGS
flags.DEFINE_integer("parts", 1, "Number of parts of the batch.")
flags.DEFINE_bool("rematerialize", False, "Recompute activations in the backward pass.")
flags.DEFINE_string("model", "resnet50", "The network.")
flags.DEFINE_integer("image_size", 128, "Height and width of the images in pixels.")
flags.DEFINE_integer("batch_size", 64, "Images per step.")
STEPS = 3


def main(_: list[str]) -> None:
    """Prints the memory that the steps took beyond that of the model, and the time of the last step."""
    shape = FLAGS.image_size, FLAGS.image_size, 3
    model = models.build(FLAGS.model, shape, 10)
    trainer = Trainer(
        model, weight_decay=0.0, objective=NFGSM(), batch_parts=FLAGS.parts, rematerialize=FLAGS.rematerialize
    )
    rng = np.random.default_rng(0)
    x, y = rng.random((FLAGS.batch_size, *shape), np.float32), rng.integers(0, 10, FLAGS.batch_size)
    before = gigabytes("VmRSS")
    for step in range(STEPS):
        started = time.perf_counter()
        trainer.train_step(x, y, 0.03, (0, step)).numpy()
    seconds = time.perf_counter() - started
    more = gigabytes("VmHWM") - before
    print(f"{more:.2f} GB more than before, {seconds:.1f} s per step")


if __name__ == "__main__":
    app.run(main)
