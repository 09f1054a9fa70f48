"""A network whose dropout stays on: AutoAttack's version "rand" of tfadv beside that of the public auto-attack.

    python -m benchmarks.random_models --data_dir=tfds_data --folder=runs/nearest

Trains the network of `benchmarks.nearest` with dropout and N-FGSM, unless it is in the folder, and attacks means of 1,
5, 20 and 50 passes.  All adversarial images are judged alike, by the mean of 200 new passes.
"""

from __future__ import annotations

import importlib.util
import time

import tfadv  # before TensorFlow

import keras
import numpy as np

from benchmarks import nearest
from benchmarks.nearest import in_torch
from tfadv.attacks import AutoAttack

EPS, IMAGES, SAMPLES, JUDGES = 4 / 255, 100, (1, 5, 20, 50), 200
RATE = 0.3  # of dropout


@keras.saving.register_keras_serializable("benchmarks")
class Dropout(keras.layers.Layer):
    """Drops values at inference, too: Keras' own layer in a functional model, called with training=True, does not."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return keras.random.dropout(x, RATE, seed=self.seed)


def network() -> keras.Model:
    """That of `benchmarks.nearest`, with dropout before its dense layers."""
    inputs = x = keras.Input((32, 32, 3))
    for layer in nearest.network().layers:
        if isinstance(layer, keras.layers.Dense):
            x = Dropout()(x)
        x = layer(x)
    return keras.Model(inputs, x)


def of_tfadv(model: keras.Model, x: np.ndarray, y: np.ndarray, samples: int):
    """(adversarial images (N, H, W, C), its own accuracy); so does `of_library`."""
    attack = AutoAttack(attacks=("apgd-ce", "apgd-dlr"))
    result = tfadv.evaluate(tfadv.expectation(model, samples), x, y, attack, EPS, keep_images=True)
    return np.asarray(result.adversarial), result.robust_accuracy


def of_library(model: keras.Model, x: np.ndarray, y: np.ndarray, samples: int):
    import autoattack
    import torch

    settings = dict(norm="Linf", version="rand", device="cpu", verbose=False, seed=0)
    attack, images = autoattack.AutoAttack(in_torch(model, RATE), eps=EPS, **settings), torch.tensor(x)
    attack.apgd.eot_iter = samples
    images, labels = images.permute(0, 3, 1, 2).contiguous(), torch.tensor(y)
    found, answers = attack.run_standard_evaluation(images, labels, bs=len(y), return_labels=True)
    return found.numpy().transpose(0, 2, 3, 1), (answers == labels).float().mean().item()


def main(options) -> None:
    """Prints a row for each number of passes and library."""
    parts = f"train[:{nearest.TRAINED_ON}]", f"test[:{IMAGES}]"
    train, (x, y) = (nearest.images(options.data_dir, part) for part in parts)
    model, y = nearest.trained(options.folder / "dropout.keras", *train, 8 / 255, network), y.astype("int64")
    judge = tfadv.expectation(model, JUDGES)
    libraries = {"tfadv": of_tfadv, "auto-attack": of_library}
    if not importlib.util.find_spec("autoattack"):
        print(f"{libraries.popitem()[0]} is not installed")
    clean = judge.predict(x, verbose=0).argmax(1) == y
    print(f"clean: {100 * clean.mean():.1f}%\nsamples | library | own accuracy | accuracy of the mean | seconds")
    for samples in SAMPLES:
        for name, attack in libraries.items():
            started = time.monotonic()
            found, own = attack(model, x, y, samples)
            seconds = time.monotonic() - started
            robust = clean & (judge.predict(found, verbose=0).argmax(1) == y)
            shown = f"{100 * own:.1f} | {100 * robust.mean():.1f} | {seconds:.0f}"
            print(f"{samples} | {name} | {shown}", flush=True)


if __name__ == "__main__":
    main(nearest.flags())
