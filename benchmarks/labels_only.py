"""HopSkipJump and RayS beside Foolbox and ART: queries per second, and distances after the same number of queries.

    python -m benchmarks.labels_only --data_dir=tfds_data --folder=runs/nearest

Attacks the clean network of `benchmarks.nearest`, on images that it classifies correctly.  The libraries take turns.
In each run, each image gets the same number of queries, and the nearest adversarial image among these counts.  ART
attacks one image after the other, in each run a third of them.
"""

import contextlib
import time
from importlib.util import find_spec

import tfadv  # before TensorFlow

import numpy as np
import tensorflow as tf

from benchmarks.nearest import TRAINED_ON, flags, images, trained

IMAGES, QUERIES, RUNS = 40, 1000, 3
NORMS = {"l2": 2, "linf": np.inf}


class Queries:
    """A model that counts queries and keeps the least distances; `of`: the image of all rows, or None for row i = i."""

    def __init__(self, model, x, y, norm, queries):
        self.x, self.y, self.order, self.queries, self.of = x, y, NORMS[norm], queries, None
        self.used, self.distances, self.aside = np.zeros(len(y), int), np.full(len(y), np.inf), 0.0
        self.logits = tf.function(model, input_signature=[tf.TensorSpec((None, *x.shape[1:]))])

    def __call__(self, candidates):
        return self.counted(candidates, self.logits(candidates))

    def counted(self, candidates, logits):
        started, each = time.monotonic(), np.arange(len(logits))
        rows, before = (each, 0) if self.of is None else (np.full(len(logits), self.of), each)
        found = (self.used[rows] + before < self.queries) & (np.asarray(logits).argmax(1) != self.y[rows])
        change = (np.asarray(candidates) - self.x[rows]).reshape(len(rows), -1)[found]
        np.minimum.at(self.distances, rows[found], np.linalg.norm(change, self.order, axis=1))
        np.add.at(self.used, rows, 1)
        self.aside += time.monotonic() - started
        if self.used[rows].min() >= self.queries:
            raise StopIteration
        return logits


def foolbox(model, counted, run):
    """All images together."""
    from foolbox import TensorFlowModel, attacks

    attack = attacks.HopSkipJumpAttack(constraint="l2" if counted.order == 2 else "linf")
    with contextlib.suppress(StopIteration):
        attack(TensorFlowModel(counted, (0, 1)), tf.constant(counted.x), tf.constant(counted.y), epsilons=None)


def art(model, counted, run):
    """One image after the other."""
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(model, 10, counted.x.shape[1:], clip_values=(0, 1))
    predict = classifier.predict
    classifier.predict = lambda x, **options: counted.counted(x, predict(x, **options))
    for image in range(run, len(counted.x), RUNS):
        counted.of = image
        with contextlib.suppress(StopIteration):
            HopSkipJump(classifier, norm=counted.order, verbose=False).generate(counted.x[[image]])


def attacked(library, norm, model, x, y, queries, run):
    """(queries per second, distances (N,), inf where there is none)."""
    started = time.monotonic()
    if library in ("hopskipjump", "rays"):
        attack = f"{library}(queries={queries}{f', norm={norm}' if library == 'hopskipjump' else ''})"
        result = tfadv.evaluate(model, x, y, attack, seed=run)
        return result.cost.forwards / (time.monotonic() - started), result.distances
    counted = Queries(model, x, y, norm, queries)
    tf.keras.utils.set_random_seed(run)
    {"foolbox": foolbox, "art": art}[library](model, counted, run)
    return counted.used.sum() / (time.monotonic() - started - counted.aside), counted.distances


def main(options):
    """Prints a row for each library and norm; the distances of ART are those of all of its runs."""
    train, (x, y) = images(options.data_dir, f"train[:{TRAINED_ON}]"), images(options.data_dir, "test[:200]")
    model = trained(options.folder / "clean.keras", *train, 0.0)
    correct = np.flatnonzero(tfadv.evaluate(model, x, y, None).clean_correct)[:IMAGES]
    x, y = x[correct], y[correct].astype("int64")
    libraries = {name: find_spec(name) for name in ("foolbox", "art")}
    print(f"not installed: {', '.join(name for name, found in libraries.items() if not found) or 'none'}")
    attacks = "hopskipjump", *(name for name, found in libraries.items() if found)
    rows = [*((attack, norm) for norm in NORMS for attack in attacks), ("rays", "linf")]
    runs = {row: [attacked(*row, model, x, y, 60, 0)][:0] for row in rows}  # compiles
    for run in range(RUNS):
        for row in rows:
            runs[row].append(attacked(*row, model, x, y, QUERIES, run))
    print("attack or library | norm | queries/s | least to most | median distance | least to most")
    for (library, norm), found in runs.items():
        rates, distances = (np.array(each) for each in zip(*found))
        medians = np.median(distances.min(0, keepdims=True) if library == "art" else distances, axis=1)
        row = [library, norm, f"{np.median(rates):,.0f}", f"{rates.min():,.0f} to {rates.max():,.0f}"]
        print(" | ".join([*row, f"{np.median(medians):.4g}", f"{medians.min():.4g} to {medians.max():.4g}"]))


if __name__ == "__main__":
    main(flags())
