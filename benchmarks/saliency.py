"""What an attack and the defenses of a run change in what a network looks at.

    tfadv --flagfile=quickstart && python -m benchmarks.saliency runs/quickstart

For each defense of the first network of a work folder: how alike the saliency of an image is before and after FGSM at
the largest eps (rank correlation over the pixels, on the images that FGSM fools); how much of the saliency lies on
bright pixels, such as the strokes of digits, relative to their share of the image; the margin and the L1 norm of its
gradient.  Medians with 95% intervals, over the test images that are classified correctly.
"""

from __future__ import annotations

import pathlib
import sys

import tfadv  # before TensorFlow

import numpy as np
from scipy.stats import spearmanr

from tfadv.attacks.gradient import compiled_logits
from tfadv.command_line import CommandLine
from tfadv.datasets.batches import to_float
from tfadv.evaluation.records import median, median_interval
from tfadv.explanation.saliency import saliency
from tfadv.explanation.vulnerability import vulnerability
from tfadv.pipeline import steps
from tfadv.pipeline.run import Run
from tfadv.store.workdir import Workdir

BRIGHT = 0.5  # of a pixel in [0, 1], the mean of its channels
HEAD = ("defense", "correct", "fooled", "likeness where fooled", "on bright pixels", "margin", "gradient norm")


def row(model, x, y, eps):
    """The columns of `HEAD` after the first, as texts."""
    attacked = np.asarray(tfadv.attacks.FGSM()(model, x, y, eps))
    clean, after = (np.argmax(compiled_logits(model, images), axis=1) == y for images in (x, attacked))
    maps, maps_after = (saliency(model, images, y) for images in (x, attacked))
    alike = np.array([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, maps_after)])
    bright = x.mean(axis=-1) > BRIGHT
    share = (maps * bright).sum(axis=(1, 2)) / maps.sum(axis=(1, 2)) / bright.mean(axis=(1, 2))
    found = vulnerability(model, x, y, steps=1)  # of which the distances are not used
    values = (alike[clean & ~after], share[clean], found.margin[clean], found.gradient_norm[clean])
    return (f"{clean.sum()}", f"{(clean & ~after).sum()}", *map(text, values))


def text(values):
    """The median with its interval."""
    low, high = median_interval(values)
    return f"{median(values):.3g} [{low:.3g}, {high:.3g}]"


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    config = CommandLine([f"--flagfile={folder / 'flags.txt'}", f"--workdir={folder}"]).config()
    run = Run(config, Workdir(folder, follower=True))
    test = steps.prepare(run).images["test"]
    x, y = np.asarray(to_float(test.images[:])), test.labels[:]
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    with run.cache.looking():
        for trained in steps.all_trained(run):
            if trained.model == config.models[0]:
                with steps.loaded(run, trained) as model:
                    print(
                        f"| {trained.defense.label} | {' | '.join(row(model, x, y, max(config.epsilons)))} |",
                        flush=True,
                    )
