"""Adversarial training of a small network on MNIST at eps 0.3: `python -m benchmarks.mnist_hardening`.

The network is the one of Wong et al. 2020 (https://arxiv.org/abs/2001.03994, section 5.1).
"""

from __future__ import annotations

import logging
import sys
import time

import tfadv
import keras
import tensorflow_datasets as tfds
from absl import app, flags
from keras import layers

EPS = 0.3
FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.")
flags.DEFINE_string("defense", "pgd(steps=5)", "The defense, with its settings.")
flags.DEFINE_integer("epochs", 15, "Epochs over 54,000 images.")
flags.DEFINE_integer("images", 1000, "Number of test images under attack, the first ones.")
flags.DEFINE_list("attacks", ["fgsm", "pgd(steps=40;restarts=5)"], "Attacks; a semicolon separates their settings.")


def small_cnn() -> keras.Model:
    """Two convolutions and two dense layers, 166,406 weights."""
    keras.utils.set_random_seed(0)
    convolutions = [layers.Conv2D(n, 4, strides=2, padding="same", activation="relu") for n in (16, 32)]
    head = [layers.Flatten(), layers.Dense(100, activation="relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])


def images(split: str) -> tuple:
    """(uint8 images (N, 28, 28, 1), labels (N,))."""
    x, y = tfds.load("mnist", data_dir=FLAGS.data_dir, split=split, batch_size=-1, as_supervised=True)
    return x.numpy(), y.numpy()


def main(_: list[str]) -> None:
    """Trains, and prints clean accuracy and accuracy under each attack."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    model, (x, y) = small_cnn(), images("test")
    start = time.perf_counter()
    trainer = tfadv.AdversarialTrainer(model, FLAGS.defense, EPS, weight_decay=5e-4)
    history = trainer.fit(*images("train"), epochs=FLAGS.epochs)
    print(f"{FLAGS.defense}: {(time.perf_counter() - start) / 60:.1f} min, epoch {history['best_epoch']} kept")
    if "collapsed_epoch" in history:
        print(f"training collapsed in epoch {history['collapsed_epoch']} and was continued with two-step PGD")
    print("all test images,", tfadv.evaluate(model, x, y, attack=None).summary())
    for attack in FLAGS.attacks:
        attacked = x[: FLAGS.images], y[: FLAGS.images]
        print(tfadv.evaluate(model, *attacked, attack.replace(";", ","), [EPS / 3, 2 * EPS / 3, EPS]).summary())


if __name__ == "__main__":
    app.run(main)
