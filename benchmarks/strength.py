"""How strong and how fast tfadv's attacks are beside the references, on the trained models of a work folder.

python -m benchmarks.strength --workdir=runs/cifar10 --data_dir=data --images=1000

Each model is carried over into PyTorch, where auto-attack (the reference of
APGD, FAB, Square and AutoAttack), torchattacks, Foolbox and ART run at the same
settings: PGD of 20 steps of eps / 4 from a random start; MI-FGSM of 10 steps of
eps / 10; APGD, targeted APGD and FAB of 100 steps; Square of 5,000 queries; 9
targets.  A robust accuracy counts the images that are right unattacked and under
attack.  The seconds are of a whole attack on all images, after a first call on
few images and few steps that builds what is built once.

The peers come with `pip install -e '.[bench]'` and
`pip install git+https://github.com/fra31/auto-attack`; one that is absent is left out.
Rows land in <out>/strength.jsonl and <out>/strength.md as they come; the same
command goes on after the last one.
"""

import importlib.util
import json
import pathlib
import time

import tfadv  # noqa: F401  before TensorFlow: switches oneDNN on

import keras
import numpy as np
from absl import app, flags

from benchmarks.attackers import ATTACKERS, AUTO, SHORT

_WORKDIR = flags.DEFINE_string("workdir", "runs/cifar10", "Work folder with models/ and split/division.json.")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Home of the TFDS data sets.")
_OUT = flags.DEFINE_string("out", "runs/strength", "Folder for strength.jsonl and strength.md.")
_IMAGES = flags.DEFINE_integer("images", 1000, "How many test images, the first ones.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", "resnet18", "Network.")
_VARIANTS = flags.DEFINE_list("variants", ["baseline", "retrained"], "Variants of the network.")
_EPS = flags.DEFINE_list("eps", ["0.01", "0.03"], "Radii in L-infinity.")
_ATTACKS = flags.DEFINE_list("attacks", [*SHORT, *AUTO], "Attacks.")
_CONTENDERS = flags.DEFINE_list("contenders", list(ATTACKERS), "Who attacks.")
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Images at once.", lower_bound=1)

STEPS, QUERIES = {"pgd": 20, "mifgsm": 10} | dict.fromkeys(AUTO, 100), 5000


def test_images(workdir, data_dir, number):
    """(float32 (N, H, W, C), int64 (N,)): the first test images of a work folder."""
    from tfadv.datasets import sources

    division = json.loads((pathlib.Path(workdir) / "split" / "division.json").read_text())
    pool = sources.load(division["dataset"].split("/")[0], data_dir, 32)
    rows = np.asarray(division["test"])[:number]
    return (pool.images[rows] / np.float32(255)).astype(np.float32), pool.labels[rows]


def measure(attacker, attack, eps, x):
    """dict of what the attack left, how far it went (in the unit of x) and the seconds it took."""
    attacker.attack(attack, eps, 2, 2, min(len(x), 8))
    start = time.perf_counter()
    made = np.asarray(attacker.attack(attack, eps, STEPS[attack], QUERIES, len(x)))
    seconds = time.perf_counter() - start
    clean = attacker.right(x)
    return {
        "clean": round(100 * clean.mean(), 2),
        "robust": round(100 * (clean & attacker.right(made)).mean(), 2),
        "farthest": round(float(np.abs(made - x).max()), 6),
        "seconds": round(seconds, 2),
    }


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    x, y = test_images(_WORKDIR.value, _DATA_DIR.value, _IMAGES.value)
    rows = _read(out)
    for variant in _VARIANTS.value:
        folder = pathlib.Path(_WORKDIR.value) / "models" / _MODEL.value / variant
        model = keras.models.load_model(folder / "model.keras", compile=False)
        attackers = {}
        for name in _CONTENDERS.value:
            if importlib.util.find_spec(ATTACKERS[name].package) is None:
                print(f"{name} is not installed, and left out.")
            else:
                attackers[name] = ATTACKERS[name](_MODEL.value, model, x, y, _BATCH.value, _SEED.value)
        for eps in map(float, _EPS.value):
            case = dict(variant=variant, eps=eps, images=len(y), seed=_SEED.value)
            for attack in _ATTACKS.value:
                for name, attacker in attackers.items():
                    cell = case | dict(attack=attack, contender=name)
                    if attack in attacker.attacks and not any(cell.items() <= row.items() for row in rows):
                        rows.append(cell | measure(attacker, attack, eps, x))
                        _write(out, rows)


def _read(out):
    """The rows that an earlier call has measured."""
    file = out / "strength.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _write(out, rows):
    lines = [json.dumps(row) for row in rows]
    aside = out / "strength.jsonl.new"  # whoever is killed here still has the rows before
    aside.write_text("\n".join(lines) + "\n")
    aside.replace(out / "strength.jsonl")
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    (out / "strength.md").write_text("".join(f"| {' | '.join(row)} |\n" for row in cells))
    print(lines[-1], flush=True)


if __name__ == "__main__":
    app.run(main)
