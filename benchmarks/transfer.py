"""How often adversarial images of one small network for CIFAR-10 fool two others, for each setting of mifgsm.

    python -m benchmarks.transfer --data_dir=tfds_data --folder=runs/transfer

Trains three networks, unless they are in the folder, and attacks the test images that all of them classify correctly.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import tfadv  # before TensorFlow

import keras
import numpy as np
from keras import layers

from benchmarks.nearest import EPOCHS, TRAINED_ON, images, network
from tfadv.attacks import parse
from tfadv.evaluation.records import wilson_interval

IMAGES, TESTED, EPS = 500, 4000, 8 / 255
SETTINGS = (
    *("", "diversity=0.5", "kernel=3", "kernel=7", "scales=5", "neighbours=20", "blocks=2"),
    "diversity=0.5, neighbours=20",
)


def pooled() -> keras.Model:
    """Four convolutions with BatchNorm and a mean over the image."""
    body = []
    for filters, stride in ((16, 2), (32, 1), (32, 2), (64, 1)):
        convolution = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)
        body += [convolution, layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    return keras.Sequential([keras.Input((32, 32, 3)), *body, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def elu() -> keras.Model:
    """Three convolutions with maximum pooling, and a dense layer."""
    body = []
    for filters in (32, 64, 128):
        body += [layers.Conv2D(filters, 3, padding="same", activation="elu"), layers.MaxPooling2D()]
    return keras.Sequential([keras.Input((32, 32, 3)), *body, layers.Flatten(), layers.Dropout(0.3), layers.Dense(10)])


def trained(path: pathlib.Path, make, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The network of that file; trained and written where it is missing."""
    if not path.exists():
        keras.utils.set_random_seed(0)
        model = make()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=2)
        model.save(path)
    return keras.models.load_model(path)


def row(name, text, source, models, x, y):
    """Prints the shares of images that fool each model, with their intervals."""
    started = time.monotonic()
    adversarial, cells = parse(text)(source, x, y, EPS).numpy(), []
    seconds = time.monotonic() - started
    for model in models:
        fooled = int((~tfadv.evaluate(model, adversarial, y, None).clean_correct).sum())
        low, high = wilson_interval(fooled, len(y))
        cells.append(f"{100 * fooled / len(y):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/transfer"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train, (x, y) = (images(options.data_dir, part) for part in (f"train[:{TRAINED_ON}]", f"test[:{TESTED}]"))
    networks = {"pooled": pooled, "dense": network, "elu": elu}
    models = [trained(options.folder / f"{name}.keras", make, *train) for name, make in networks.items()]
    right = [tfadv.evaluate(model, x, y, None).clean_correct for model in models]
    rows = np.flatnonzero(np.all(right, axis=0))[:IMAGES]
    print(f"{len(rows)} images; clean accuracies: {', '.join(f'{each.mean():.1%}' for each in right)}")
    print(f"| attack | {' | '.join(networks)} | seconds |\n|{' --- |' * (len(models) + 2)}")
    images_of = models, x[rows], y[rows]
    row("fgsm", "fgsm", models[0], *images_of)
    for own in SETTINGS:
        row(f"mifgsm({own})", f"mifgsm({own}{', ' * bool(own)}early_stop=false)", models[0], *images_of)
    row("mifgsm() on two networks", "mifgsm(early_stop=false)", tfadv.ensemble(models[:2]), *images_of)
