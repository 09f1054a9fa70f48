"""Certified accuracy of a small network on CIFAR-10, trained with and without noise.

    python -m benchmarks.certify --data_dir=data

Trains with `tfadv.AdversarialModel` and prints what `tfadv.certify` says, with its time.
"""

import pathlib
import sys
import time

import tfadv  # before TensorFlow

import keras
from absl import flags

from benchmarks.deployed import network
from benchmarks.tutorials import images_of

SETTINGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
flags.DEFINE_integer("train", 15000, "Training images.", flag_values=SETTINGS)
flags.DEFINE_integer("epochs", 6, "Epochs.", flag_values=SETTINGS)
flags.DEFINE_integer("certified", 200, "Test images.", flag_values=SETTINGS)
flags.DEFINE_integer("copies", 1000, "Noisy copies of each image.", flag_values=SETTINGS)
flags.DEFINE_float("sigma", 0.25, "Standard deviation of the noise.", flag_values=SETTINGS)
flags.DEFINE_string("save", "", "File to write the trained network to.", flag_values=SETTINGS)


def main(argv):
    del argv
    (x_train, y_train), (x, y) = images_of("cifar10", SETTINGS.train, SETTINGS.certified, data_dir=SETTINGS.data_dir)
    for name in ("gaussian", "plain"):
        keras.utils.set_random_seed(0)
        model = network()
        defense = f"gaussian(sigma={SETTINGS.sigma})"
        trained = tfadv.AdversarialModel(model, defense, input_range=(0, 255)) if name == "gaussian" else model
        trained.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        started = time.monotonic()
        trained.fit(x_train, y_train, batch_size=128, epochs=SETTINGS.epochs, verbose=0)
        training = time.monotonic() - started
        if SETTINGS.save:
            model.save(pathlib.Path(SETTINGS.save).with_suffix(f".{name}.keras"))
        classifier, started = tfadv.classifier(model, input_range=(0, 255)), time.monotonic()
        found = tfadv.certify(classifier, x, y, SETTINGS.sigma, SETTINGS.copies)
        seconds = (time.monotonic() - started) / len(y)
        print(f"{name}, trained in {training:.0f} s, certified in {seconds:.2f} s per image")
        print(tfadv.evaluate(classifier, x, y, None).summary())
        print(found.summary(), flush=True)


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
