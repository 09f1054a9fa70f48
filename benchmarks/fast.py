"""AutoAttack beside `fast`: robust accuracy, passes, seconds and the images on which they differ.

    python -m benchmarks.fast --data_dir=data [--only=mnist,cifar10] [--cycles]

Trains small networks on few images, one or two minutes each, and prints a table in Markdown.  Passes are gradients and
forward passes together.  Seconds are those of the attack, without compilation.  With --cycles, the table is of PGD with
100 steps, whose search ends where it returns to an earlier image, beside one that goes on.
"""

import dataclasses
import sys
import time

import tfadv  # before TensorFlow

import keras
import tensorflow as tf
from absl import flags
from keras import layers

from benchmarks.tutorials import images_of
from tfadv.attacks import PGD, AutoAttack, Fast, pgd

SETTINGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
flags.DEFINE_integer("attacked", 200, "Test images.", flag_values=SETTINGS)
flags.DEFINE_list("only", [], "Some of the models; all where empty.", flag_values=SETTINGS)
flags.DEFINE_bool("cycles", False, "Compares PGD with and without the end at a cycle.", flag_values=SETTINGS)
# name → (data set, size, channels, classes, defense, eps of the defense, training images, epochs), eps, norm
CIFAR10 = ("cifar10", 32, 3, 10)
MODELS = {
    "mnist, nfgsm": (("mnist", 28, 1, 10, "nfgsm", 0.2, 5000, 4), 0.2, "linf"),
    "cifar10, nfgsm": ((*CIFAR10, "nfgsm", 4 / 255, 5000, 6), 4 / 255, "linf"),
    "cifar10, nfgsm, logits times 1,000": ((*CIFAR10, "nfgsm", 4 / 255, 5000, 6), 4 / 255, "linf"),
    "cifar10, nfgsm, 16 levels of a pixel": ((*CIFAR10, "nfgsm", 4 / 255, 5000, 6), 4 / 255, "linf"),
    "cifar10, pgd": ((*CIFAR10, "pgd(steps=2)", 4 / 255, 5000, 4), 4 / 255, "linf"),
    "cifar10, nfgsm, in L2": ((*CIFAR10, "nfgsm", 4 / 255, 5000, 6), 0.25, "l2"),
    "cifar10, clean": ((*CIFAR10, None, 0, 5000, 6), 0.5 / 255, "linf"),
    "cats_vs_dogs, nfgsm": (("cats_vs_dogs", 48, 3, 2, "nfgsm", 1 / 255, 10_000, 8), 1 / 255, "linf"),
}
HEAD = ["model", "eps", "clean", "AutoAttack", "fast", "differ", "passes of AutoAttack", "of fast, %"]
HEAD += ["seconds of AutoAttack", "of fast", "given up", "Square fooled some"]
HEAD_OF_CYCLES = ["model", "eps", "PGD-100", "differ", "gradients", "saved, %", "seconds", "with cycles found"]


def network(size, channels, classes):
    """A network of three convolutions."""
    model = keras.Sequential([keras.Input((size, size, channels)), layers.Rescaling(1 / 255)])
    for width, strides in ((16, 2), (32, 1), (64, 2)):
        model.add(layers.Conv2D(width, 3, strides, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))  # there are few steps
        model.add(layers.ReLU())
    model.add(layers.Flatten() if channels == 1 else layers.GlobalAveragePooling2D())
    model.add(layers.Dense(classes))
    return model


def trained(data, size, channels, classes, defense, eps, train, epochs):
    """(the model, test images, labels)."""
    keras.utils.set_random_seed(0)
    (x_train, y_train), (x, y) = images_of(data, train, SETTINGS.attacked, size, SETTINGS.data_dir)
    model = network(size, channels, classes)
    trainer = model if defense is None else tfadv.AdversarialModel(model, defense, eps, (0, 255))
    trainer.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(x_train, y_train, batch_size=128, epochs=epochs, verbose=0)
    return model, x, y


def masked(model, name):
    """The model, with its gradient hidden where the name of the row says so."""
    if "logits" in name:
        model.layers[-1].set_weights([1000 * w for w in model.layers[-1].get_weights()])
    if "levels" in name:
        image = keras.Input(model.input_shape[1:])
        model = keras.Model(image, model(layers.Lambda(lambda x: tf.round(x / 17) * 17)(image)))
    return model


def attacked(attack, model, x, y, eps):
    """(the result, its passes, its seconds)."""
    few = {name: 2 for name in ("steps", "queries") if hasattr(attack, name)}
    tfadv.evaluate(model, x[:16], y[:16], dataclasses.replace(attack, **few), eps)  # compiles
    started = time.monotonic()
    result = tfadv.evaluate(model, x, y, attack, eps)
    return result, result.cost.gradients + result.cost.forwards, time.monotonic() - started


def compare(name, model, x, y, eps, norm):
    """A row of the first table."""
    fast, passes, seconds = attacked(Fast(norm=norm), model, x, y, eps)
    whole, all_passes, all_seconds = attacked(AutoAttack(norm=norm), model, x, y, eps)
    cells = [name, f"{eps:.4f}", f"{100 * whole.clean_accuracy:.1f}"]
    cells += [f"{100 * r.robust_accuracy:.1f}" for r in (whole, fast)]
    cells += [str((whole.robust != fast.robust).sum()), f"{all_passes:,}", f"{100 * passes / all_passes:.1f}"]
    cells += [f"{all_seconds:.0f}", f"{seconds:.0f}", str(fast.cost.remaining["given up"][0])]
    cells += ["no" if fast.cost.remaining["square"] == fast.cost.remaining["other targets"] else "yes"]
    return f"| {' | '.join(cells)} |"


def cycles(name, model, x, y, eps):
    """A row of the second table."""
    found = attacked(PGD(steps=100), model, x, y, eps)
    renewals, pgd.RENEWALS = pgd.RENEWALS, 0 * pgd.RENEWALS  # never finds a cycle
    plain = attacked(PGD(steps=100), model, x, y, eps)
    pgd.RENEWALS = renewals
    differ = (found[0].robust != plain[0].robust).sum()
    cells = [name, f"{eps:.4f}", f"{100 * plain[0].robust_accuracy:.1f}", str(differ)]
    cells += [f"{plain[0].cost.gradients:,}", f"{100 * (1 - found[0].cost.gradients / plain[0].cost.gradients):.0f}"]
    return f"| {' | '.join([*cells, f'{plain[2]:.0f}', f'{found[2]:.0f}'])} |"


def main(argv):
    del argv
    head = HEAD_OF_CYCLES if SETTINGS.cycles else HEAD
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)
    for name, (settings, eps, norm) in MODELS.items():
        if SETTINGS.only and not name.startswith(tuple(SETTINGS.only)) or SETTINGS.cycles and norm == "l2":
            continue
        model, x, y = trained(*settings)
        classifier = tfadv.classifier(masked(model, name), (0, 255), quiet=True)
        if not SETTINGS.cycles:
            print(compare(name, classifier, x, y, eps, norm), flush=True)
        for part in (0.5, 1, 1.5) if SETTINGS.cycles else ():
            print(cycles(name, classifier, x, y, part * eps), flush=True)


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
