"""What `--require` saves by ending an attack early: AutoAttack on all images, and until a requirement is decided.

    python -m benchmarks.gate --data_dir=data

Trains a small network on images of CIFAR-10, measures its accuracy under AutoAttack on 1,000 images, and requires 10
points more and less, each in a new work folder.  Prints a table in Markdown.  Seconds are those of the attack.
"""

import contextlib
import json
import pathlib
import sys
import tempfile

import numpy as np

from benchmarks.fast import MODELS, SETTINGS, trained
from tfadv.command_line import CommandLine
from tfadv.pipeline import stages
from tfadv.pipeline.results import load_result

EPS, IMAGES, POINTS = "4/255", 5000, (-10, 10)  # a fifth of the images are test images


def evaluated(folder, name, require=""):
    """(verdicts; the result of AutoAttack; seconds that it took) of a run in a new work folder."""
    flags = [f"--workdir={folder / name}", f"--require={require}", f"--dataset=npz:{folder / 'images.npz'}"]
    flags += [f"--models={folder / 'model.keras'}", "--input_range=0,255", "--stage=evaluate", "--attacks=autoattack"]
    text, _ = stages.run(CommandLine([*flags, f"--epsilons={EPS}"]).config())
    of_attack = folder / name / "attacks/model/original/autoattack"
    verdicts = [line.split(":")[0] for line in text.splitlines() if "autoattack@" in line]
    return verdicts, load_result(of_attack), json.loads((of_attack / "manifest.json").read_text())["seconds"]


def main(arguments):
    """Prints the table."""
    SETTINGS([*arguments, f"--attacked={IMAGES}"])
    model, x, y = trained(*MODELS["cifar10, nfgsm"][0])
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        folder = pathlib.Path(temporary)
        model.save(folder / "model.keras")
        np.savez(folder / "images.npz", x=x, y=y)
        _, whole, of_all = evaluated(folder, "all")
        (accuracy,) = (row.mean() for row in whole.robust)
        print(f"{accuracy:.1%} of {whole.n} images, {of_all:.0f} s\n")
        print("| required | verdict | images | seconds | of the seconds of all |\n| --- | --- | --- | --- | --- |")
        for points in POINTS:
            least = accuracy + points / 100
            (verdict,), result, seconds = evaluated(folder, f"{points}", f"autoattack@{EPS}>={least:.3f}")
            print(f"| {least:.1%} | {verdict} | {result.n} | {seconds:.0f} | {seconds / of_all:.0%} |", flush=True)


if __name__ == "__main__":
    main(sys.argv)
