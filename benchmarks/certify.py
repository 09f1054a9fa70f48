"""Certified accuracy of a small network on CIFAR-10, trained with and without noise.

    python -m benchmarks.certify --data_dir=data [--only=art | --only=coverage]

Trains with `tfadv.AdversarialModel` and prints what `tfadv.certify` says, with its time.  With --only=art, ART
certifies the same images, in turns.  With --only=coverage, it counts too large radii of a linear model, whose true
radius is known.
"""

import pathlib
import sys
import time
from importlib.util import find_spec

import tfadv  # before TensorFlow

import keras
import numpy as np
from absl import flags
from scipy.stats import norm

from benchmarks.deployed import network
from benchmarks.tutorials import images_of
from tfadv.evaluation.certificate import lower_bound

SETTINGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
flags.DEFINE_integer("train", 15000, "Training images.", flag_values=SETTINGS)
flags.DEFINE_integer("epochs", 6, "Epochs.", flag_values=SETTINGS)
flags.DEFINE_integer("certified", 200, "Test images.", flag_values=SETTINGS)
flags.DEFINE_integer("copies", 1000, "Noisy copies of each image.", flag_values=SETTINGS)
flags.DEFINE_float("sigma", 0.25, "Standard deviation of the noise.", flag_values=SETTINGS)
flags.DEFINE_string("save", "", "File to write the trained network to.", flag_values=SETTINGS)
flags.DEFINE_enum("only", "", ["", "art", "coverage"], "One of these instead.", flag_values=SETTINGS)
SEEDS, RUNS = 1000, 3


def art(classifier, x):
    """(the classes, -1 where it abstains; the radii): of ART, which classifies all copies of an image at once."""
    from art.estimators.certification.randomized_smoothing import TensorFlowV2RandomizedSmoothing

    settings = {"sample_size": 100, "scale": SETTINGS.sigma, "alpha": 0.001}
    smoothed = TensorFlowV2RandomizedSmoothing(classifier, 10, x.shape[1:], **settings)
    return smoothed.certify((x / 255).astype("float32"), SETTINGS.copies)


def beside(classifier, x, y):
    """Prints the times, and on how many images the votes differ by more than chance explains in 1 of 100 images.

    Of the images whose class is right under the noise; `tfadv.certify` saves the copies of the others, ART does not.
    """
    right = tfadv.certify(classifier, x, y, SETTINGS.sigma, SETTINGS.copies).selected == y
    x, y, seconds = x[right], y[right], {"tfadv": [], "ART": []}
    for run in range(RUNS):
        for name, times in seconds.items():
            started = time.monotonic()
            if name == "tfadv":
                found = tfadv.certify(classifier, x, y, SETTINGS.sigma, SETTINGS.copies, seed=run)
            else:
                np.random.seed(run)
                classes, radii = art(classifier, x)
            times.append((time.monotonic() - started) / len(y))
    both = (found.radius > 0) & (classes == y)
    possible = norm.ppf(lower_bound(np.arange(found.n + 1), found.n, found.alpha)) * found.sigma
    votes = np.stack([found.counts[both, 1], np.abs(radii[both, None] - possible).argmin(1)]) / found.n
    variance = votes.mean(0) * (1 - votes.mean(0)) / found.n
    differ = np.abs(votes[0] - votes[1]) > norm.ppf(0.995) * np.sqrt(2 * variance)
    one = (classes == y) != (found.radius > 0)
    print(f"{len(y)} images, {both.sum()} certified by both, {one.sum()} by one, {differ.sum()} with different votes")
    print(f"mean radius {found.radius[both].mean():.4f}, ART {radii[both].mean():.4f}")
    for name, times in seconds.items():
        print(f"{name}: {np.median(times):.3f} s per image ({min(times):.3f} to {max(times):.3f})")


def coverage():
    """Prints the share of the radii above 0, and of those that are too large, for 6 images and 1,000 seeds."""
    true = SETTINGS.sigma * np.array([0.1, 0.25, 0.5, 1, 1.5, 2])
    x = np.broadcast_to(0.5 + true[:, None, None, None] / 4, (6, 4, 4, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.set_weights([np.tile([0, 0.25], (16, 1)), np.array([0, -2])])  # 0 and w·x - 2, with a norm of w of 1
    for alpha in (0.05, 0.01, 0.001):
        found = [tfadv.certify(model, x, np.ones(6, int), SETTINGS.sigma, 100, alpha, seed=s) for s in range(SEEDS)]
        radii = np.stack([each.radius for each in found])
        too_large = (radii > true).mean(0)
        print(f"alpha {alpha}: too large {too_large}, together {too_large.mean():.5f}; above 0 {(radii > 0).mean(0)}")


def main(argv):
    del argv
    if SETTINGS.only == "coverage":
        coverage()
        return
    if SETTINGS.only == "art" and not find_spec("art"):
        sys.exit("ART is not installed: pip install adversarial-robustness-toolbox statsmodels")
    (x_train, y_train), (x, y) = images_of("cifar10", SETTINGS.train, SETTINGS.certified, data_dir=SETTINGS.data_dir)
    for name in ("gaussian",) if SETTINGS.only == "art" else ("gaussian", "plain"):
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
        classifier = tfadv.classifier(model, input_range=(0, 255))
        if SETTINGS.only == "art":
            beside(classifier, x, y)
            return
        started = time.monotonic()
        found = tfadv.certify(classifier, x, y, SETTINGS.sigma, SETTINGS.copies)
        seconds = (time.monotonic() - started) / len(y)
        print(f"{name}, trained in {training:.0f} s, certified in {seconds:.2f} s per image")
        print(tfadv.evaluate(classifier, x, y, None).summary())
        print(found.summary(), flush=True)


if __name__ == "__main__":
    main(SETTINGS(sys.argv))
