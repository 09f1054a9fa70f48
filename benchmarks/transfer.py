"""How often adversarial images of one network for CIFAR-10 fool three others, for each setting of mifgsm.

    python -m benchmarks.transfer --data_dir=tfds_data --folder=runs/transfer

Trains four networks, unless they are in the folder, and attacks the test images that all of them classify correctly.
"""

from __future__ import annotations

import pathlib
import time

import tfadv  # before TensorFlow

import keras
import numpy as np
from keras import layers

from benchmarks.nearest import flags, images
from tfadv.attacks import parse

IMAGES, TESTED, EPOCHS, EPS = 500, 2000, 8, 8 / 255
SETTINGS = (
    *("diversity=0.5", "kernel=3", "kernel=7", "scales=5", "neighbours=20", "blocks=2"),
    "diversity=0.5, neighbours=20",
)


def convolution(x, filters, size=3, strides=1, activation="relu"):
    """A convolution with BatchNorm and an activation."""
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))


def residual(x):
    """A residual block in each of three resolutions."""
    x = convolution(x, 32, strides=2)
    for filters in (32, 64, 128):
        short = layers.Conv2D(filters, 1, strides=1 if filters == 32 else 2)(x)
        x = convolution(convolution(x, filters, strides=1 if filters == 32 else 2), filters, activation="linear")
        x = layers.ReLU()(layers.Add()([x, short]))
    return layers.GlobalAveragePooling2D()(x)


def pooling(x):
    """Convolutions with maximum pooling, and a dense layer."""
    for filters in (32, 64, 128):
        x = layers.MaxPooling2D()(convolution(x, filters))
    return layers.Dense(128, activation="relu")(layers.Dropout(0.3)(layers.Flatten()(x)))


def strided(x):
    """Convolutions alone, without ReLU."""
    for filters, strides in ((48, 2), (64, 1), (96, 2), (96, 1), (128, 2)):
        x = convolution(x, filters, strides=strides, activation="elu")
    return layers.GlobalAveragePooling2D()(x)


def branches(x):
    """Convolutions of three sizes side by side."""
    x = convolution(x, 32, strides=2)
    for filters, strides in ((16, 1), (32, 2), (48, 2)):
        x = layers.Concatenate()([convolution(x, filters, size, strides) for size in (1, 3, 5)])
    return layers.GlobalAveragePooling2D()(x)


NETWORKS = (residual, pooling, strided, branches)


def trained(path: pathlib.Path, body, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The network of that file; trained and written where it is missing."""
    if not path.exists():
        keras.utils.set_random_seed(0)
        image = keras.Input(x.shape[1:])
        model = keras.Model(image, layers.Dense(10)(body(image)))
        moved = layers.RandomCrop(32, 32)(layers.ZeroPadding2D(4)(layers.RandomFlip("horizontal")(image)))
        trainer = keras.Model(image, model(moved))
        rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * len(y) // 128)
        trainer.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        trainer.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=2)
        model.save(path)
    return keras.models.load_model(path)


def fooled(text, source, models, x, y):
    """(bool (M, N), which images fool which of the models; seconds of the attack on the source)."""
    started = time.monotonic()
    adversarial = parse(text)(source, x, y, EPS).numpy()
    seconds = time.monotonic() - started
    return np.array([~tfadv.evaluate(each, adversarial, y, None).clean_correct for each in models]), seconds


def row(name, found, seconds, plain, sources=1):
    """Prints the shares of images that fool each model, and how many more than plain mifgsm fool the others.

    The others are those after the first `sources` models, which were attacked.
    """
    more = 100 * (found[sources:].astype(float) - plain[sources:]).mean(axis=0)  # over models, for each image
    half = 1.96 * more.std() / len(more) ** 0.5
    cells = [f"{share:.1f}" for share in 100 * found.mean(axis=1)]
    print(f"| `{name}` | {' | '.join(cells)} | {more.mean():+.1f} ± {half:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    options = flags()
    train, (x, y) = (images(options.data_dir, part) for part in ("train", f"test[:{TESTED}]"))
    models = [trained(options.folder / f"{each.__name__}.keras", each, *train) for each in NETWORKS]
    right = [tfadv.evaluate(model, x, y, None).clean_correct for model in models]
    rows = np.flatnonzero(np.all(right, axis=0))[:IMAGES]
    print(f"{len(rows)} images; clean accuracies: {', '.join(f'{each.mean():.1%}' for each in right)}")
    names = " | ".join(each.__name__ for each in NETWORKS)
    print(f"| attack | {names} | others, less mifgsm | seconds |\n|{' --- |' * (len(models) + 3)}")
    on = models, x[rows], y[rows]
    plain = fooled("mifgsm(early_stop=false)", models[0], *on)
    row("fgsm", *fooled("fgsm", models[0], *on), plain[0])
    row("mifgsm", *plain, plain[0])
    for own in SETTINGS:
        row(f"mifgsm({own})", *fooled(f"mifgsm({own}, early_stop=false)", models[0], *on), plain[0])
    two = fooled("mifgsm(early_stop=false)", tfadv.ensemble(models[:2]), *on)
    row("mifgsm on the first two", *two, plain[0], sources=2)
