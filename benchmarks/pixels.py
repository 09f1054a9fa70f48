"""How many images Sparse-RS and σ-zero fool by changing a few pixels, and one patch for all images, for CIFAR-10.

    python -m benchmarks.pixels --data_dir=tfds_data --folder=runs/nearest

Takes the networks of `benchmarks.nearest`, and trains them unless they are in the folder.  The first table is of the
test images that the network classifies correctly.  The patch is made on training images; its picture is written into
the folder.
"""

from __future__ import annotations

import pathlib
import time

import tfadv  # before TensorFlow

import keras
import numpy as np

from benchmarks.nearest import flags, images, trained
from tfadv.attacks import place, universal_patch

SIZES, IMAGES, PATCHED = (1, 4, 8, 24), 100, 1000
ATTACKS = ("sparse-rs(steps=300)", "sparse-rs(steps=1000)", "sigma-zero(norm=pixels)")


def few_pixels(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Prints a row for each attack."""
    correct = tfadv.evaluate(model, x, y, None).clean_correct
    x, y = x[correct], y[correct]
    print(f"{len(y)} images\n| attack | {' | '.join(map(str, SIZES))} | forwards | gradients | seconds |")
    for attack in ATTACKS:
        started, result = time.monotonic(), tfadv.evaluate(model, x, y, attack, SIZES)
        row = [f"{100 * each:.1f}" for each in result.robust_accuracy]
        row += [f"{passes / len(y):.0f}" for passes in (result.cost.forwards, result.cost.gradients)]
        print(f"| `{attack}` | {' | '.join(row)} | {time.monotonic() - started:.0f} |", flush=True)


def one_patch(
    path: pathlib.Path, model: keras.Model, train: tuple[np.ndarray, np.ndarray], x: np.ndarray, y: np.ndarray
) -> None:
    """Prints the accuracy under noise, a patch for all images, and one for each image, and writes the second."""
    side = 7
    started, patch = time.monotonic(), universal_patch(model, *train, size=side**2 / 32**2)
    seconds = time.monotonic() - started
    keras.utils.save_img(path, 255 * np.kron(patch, np.ones((32, 32, 1))), scale=False)
    noise = np.random.default_rng(0).random(patch.shape, np.float32)
    accuracies = [tfadv.evaluate(model, place(each, x), y, None).clean_accuracy for each in (noise, patch)]
    found = tfadv.evaluate(model, x, y, f"patch(size={side**2 / 32**2})")
    shares = [found.clean_accuracy, *accuracies, found.robust_accuracy]
    print(f"clean, noise, universal_patch, patch: {[f'{100 * each:.1f}' for each in shares]}, {seconds:.0f} s")


if __name__ == "__main__":
    options = flags()
    train, test = images(options.data_dir, "train[:20000]"), images(options.data_dir, f"test[:{PATCHED}]")
    for name, eps in (("clean", 0.0), ("nfgsm", 8 / 255)):
        print(name, flush=True)
        network = trained(options.folder / f"{name}.keras", *train, eps)
        one_patch(options.folder / f"patch_{name}.png", network, train, *test)
        few_pixels(network, test[0][:IMAGES], test[1][:IMAGES])
