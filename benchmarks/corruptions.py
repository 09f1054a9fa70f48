"""Accuracy of two small networks for CIFAR-10, plain and hardened, on corrupted, rotated and shifted images.

    python -m benchmarks.corruptions --data_dir=tfds_data --folder=runs/corruptions

Trains the networks of `benchmarks.nearest`, with N-FGSM at 4/255, unless they are in the folder.  Prints the summary of
the plain one, and a table in Markdown.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import tfadv  # before TensorFlow

from benchmarks.nearest import TRAINED_ON, images, trained

IMAGES, EPS = 1000, 4 / 255
SHOWN = ("defocus_blur", "motion_blur", "zoom_blur", "gaussian_noise", "brightness", "fog", "contrast")


def row(name, model, x, y):
    """Prints a row of the table; returns the result of the corruptions."""
    started = time.monotonic()
    corrupted = tfadv.evaluate(model, x, y, "corruptions")
    middle = time.monotonic()
    spatial, pgd = tfadv.evaluate(model, x, y, "spatial"), tfadv.evaluate(model, x, y, "pgd(steps=20)", EPS)
    by_name = corrupted.by_corruption()
    shares = [corrupted.clean_accuracy, corrupted.robust_accuracy, *(by_name[each] for each in SHOWN)]
    shares += [by_name["jpeg_compression"], spatial.robust_accuracy, pgd.robust_accuracy]
    seconds = f"{middle - started:.0f} s, {spatial.cost.seconds:.0f} s"
    print(f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} | {seconds} |", flush=True)
    return corrupted


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/corruptions"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train, test = images(options.data_dir, f"train[:{TRAINED_ON}]"), images(options.data_dir, f"test[:{IMAGES}]")
    head = ["clean", "corruptions", *SHOWN, "jpeg_compression", "spatial", "pgd(steps=20)", "corruptions, spatial"]
    print(f"| | {' | '.join(head)} |\n|{' --- |' * (len(head) + 1)}")
    networks = {
        name: trained(options.folder / f"{name}.keras", *train, eps) for name, eps in (("plain", 0.0), ("nfgsm", EPS))
    }
    print("\n".join(row(name, network, *test).summary() for name, network in networks.items()))
    print(tfadv.evaluate(networks["plain"], *test, "fog(severity=3)").summary())
