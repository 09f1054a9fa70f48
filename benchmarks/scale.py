"""Memory and rate of a training step, on one device or all of them, with the batch as a whole or in parts.

    python -m benchmarks.scale --model=resnet50 --image_size=128 --batch_size=64 --parts=4
    python -m benchmarks.scale --distribute=mirrored          # all GPUs

Trains with N-FGSM on random images.  Memory is that of the process, or of the first GPU where there is one, so each
setting needs a process of its own.
"""

from __future__ import annotations

import pathlib
import re
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

SETTINGS = flags.FlagValues()
flags.DEFINE_string("model", "resnet50", "The network, one of `tfadv.models.MODELS`.", flag_values=SETTINGS)
flags.DEFINE_integer("image_size", 128, "Height and width of the images in pixels.", flag_values=SETTINGS)
flags.DEFINE_integer("batch_size", 64, "Images per step, on all devices together.", flag_values=SETTINGS)
flags.DEFINE_integer("parts", 1, "Number of parts of the batch.", flag_values=SETTINGS)
flags.DEFINE_string("distribute", "none", "As the flag of tfadv.", flag_values=SETTINGS)
STEPS = 3  # the first one compiles; the last one is timed


def gigabytes(kind: str) -> float:
    """GB of memory of this process: "VmRSS" now, "VmHWM" the most so far; see /proc/self/status."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) / 1e6


def main(_: Sequence[str]) -> None:
    """Prints the memory that the steps took beyond that of the model, and the rate of the last step."""
    import tfadv  # noqa: F401  before TensorFlow

    import tensorflow as tf

    from tfadv import models
    from tfadv.defenses.nfgsm import NFGSM
    from tfadv.runtime.devices import Devices
    from tfadv.training import Trainer

    devices, shape = Devices(SETTINGS.distribute), (SETTINGS.image_size, SETTINGS.image_size, 3)
    with devices.strategy.scope():
        model = models.build(SETTINGS.model, shape, 10)
    trainer = Trainer(model, defense=NFGSM(), batch_parts=SETTINGS.parts, devices=devices)
    rng = np.random.default_rng(0)
    x = devices.distribute(rng.random((SETTINGS.batch_size, *shape), np.float32))
    y = devices.distribute(rng.integers(0, 10, SETTINGS.batch_size))
    on_gpu, before = bool(tf.config.list_physical_devices("GPU")), gigabytes("VmRSS")
    if on_gpu:
        before = tf.config.experimental.get_memory_info("GPU:0")["current"] / 1e9
    for step in range(STEPS):
        started = time.perf_counter()
        trainer.train_step(x, y, 0.03, (0, step)).numpy()
    rate = SETTINGS.batch_size / (time.perf_counter() - started)
    most = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9 if on_gpu else gigabytes("VmHWM")
    print(f"{devices.replicas} devices: {most - before:.2f} GB more than before, {rate:.1f} images/s")


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
