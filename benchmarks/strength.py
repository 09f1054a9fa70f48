"""Compares the strength and speed of attacks with other libraries, on the trained models of a work folder.

python -m benchmarks.strength --workdir=runs/cifar10 --data_dir=data --images=1000

Each model is rebuilt in PyTorch with the same weights, where auto-attack (the
reference of APGD, FAB, Square and AutoAttack), torchattacks, Foolbox and ART
run with the same settings: PGD of 20 steps of eps / 4 from a random start;
MI-FGSM of 10 steps of eps / 10; APGD and FAB of 100 steps; Square of 5,000
queries; 9 targets of the targeted ones.

All images are evaluated by `tfadv.evaluation.evaluate`.  An image counts as
robust where it is classified correctly, clean and under attack, by the Keras
model and by the network that the library attacked, so that rounding between
the two never counts against a library.  The seconds are those of the attack on
all images, after a first call on few images and few steps, which compiles.

The libraries come with `pip install -e '.[bench]'` and `pip install git+https://github.com/fra31/auto-attack`;
one that is absent is left out.  Rows are written to <out>/strength.jsonl and
<out>/strength.md one by one; the same command continues after the last one.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.strength_libraries import ATTACKS, LIBRARIES, Effort, StrengthLibrary, Task

SETTINGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/cifar10", "Work folder with models/ and split/splits.json.", flag_values=SETTINGS
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets.", flag_values=SETTINGS)
_OUT = flags.DEFINE_string("out", "runs/strength", "Folder for strength.jsonl and strength.md.", flag_values=SETTINGS)
_IMAGES = flags.DEFINE_integer(
    "images", 1000, "How many test images, the first ones.", lower_bound=1, flag_values=SETTINGS
)
_MODEL = flags.DEFINE_string("model", "resnet18", "Network.", flag_values=SETTINGS)
_DEFENSES = flags.DEFINE_list(
    "defenses", ["baseline", "retrained"], "Defenses by which the network was trained.", flag_values=SETTINGS
)
_EPS = flags.DEFINE_list("eps", ["0.01", "0.03"], "Sizes of eps in L-infinity.", flag_values=SETTINGS)
_ATTACKS = flags.DEFINE_list("attacks", list(ATTACKS), "Attacks.", flag_values=SETTINGS)
_LIBRARIES = flags.DEFINE_list("libraries", list(LIBRARIES), "Libraries.", flag_values=SETTINGS)
_SEED = flags.DEFINE_integer("seed", 0, "Of all random numbers.", lower_bound=0, flag_values=SETTINGS)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Images at a time.", lower_bound=1, flag_values=SETTINGS)

EFFORT = {"pgd": Effort(20, 0), "mifgsm": Effort(10, 0)}
DEFAULT_EFFORT = Effort(steps=100, queries=5000)
WARM_UP = Effort(steps=2, queries=2)


class LibraryAttack:
    """An attack of a library in the form that `evaluate` takes; keeps its images and its seconds.

    Attributes:
      images: float32 (N, H, W, C), after a call.
      seconds: of the call.
    """

    images: np.ndarray
    seconds: float

    def __init__(self, library: StrengthLibrary, name: str) -> None:
        """Takes a library and the name of one of its attacks."""
        self.name, self._library, self._effort = name, library, EFFORT.get(name, DEFAULT_EFFORT)

    def settings(self) -> dict[str, Any]:
        """Steps and queries."""
        return self._effort._asdict()

    def __call__(self, model: Any, x: np.ndarray, y: np.ndarray, eps: Sequence[float], **_: Any) -> np.ndarray:
        """The adversarial images (1, N, H, W, C) at one eps of the images of the library's task."""
        self._library.attack(self.name, eps[0], WARM_UP, min(len(x), 8))
        started = time.perf_counter()
        self.images = np.asarray(self._library.attack(self.name, eps[0], self._effort, len(x)))
        self.seconds = time.perf_counter() - started
        return self.images[None]


def measure(library: StrengthLibrary, name: str, eps: float) -> dict[str, float]:
    """Clean and robust accuracy in percent, the greatest distance of a pixel and the seconds of one attack."""
    from tfadv.evaluation import evaluate

    task, attack = library.task, LibraryAttack(library, name)
    result = evaluate(task.model, task.x, task.y, attack, eps, batch_size=task.batch_size, seed=task.seed)
    clean = result.clean_correct & library.correct(task.x)
    robust = clean & result.robust[0] & library.correct(attack.images)
    return {
        "clean": round(100 * float(clean.mean()), 2),
        "robust": round(100 * float(robust.mean()), 2),
        "farthest": round(float(np.abs(attack.images - task.x).max()), 6),
        "seconds": round(attack.seconds, 2),
    }


def load_test_images(workdir: str, data_dir: str, image_size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The first test images of a work folder: float32 (N, H, W, C) in [0, 1] and int64 (N,)."""
    from tfadv.datasets import sources

    splits = json.loads((pathlib.Path(workdir) / "split" / "splits.json").read_text())
    name = splits["dataset"].split("/")[0]
    dataset = sources.load(name, data_dir, image_size)
    if dataset.digest() != splits["images_sha256"]:
        raise app.UsageError(f"the images of {name} in {data_dir} are not those that {workdir} was built from.")
    rows = np.asarray(splits["test"])[:number]
    return (dataset.images[rows] / np.float32(255)).astype(np.float32), dataset.labels[rows]


def installed_libraries(names: Sequence[str]) -> dict[str, type[StrengthLibrary]]:
    """The libraries of these names that can run here; says which can't."""
    for name in names:
        if name not in LIBRARIES:
            raise app.UsageError(f"--libraries has {name!r}: some of {', '.join(LIBRARIES)}.")
        if importlib.util.find_spec(LIBRARIES[name].module) is None:
            print(f"{name} is not installed and left out.")
    return {name: LIBRARIES[name] for name in names if importlib.util.find_spec(LIBRARIES[name].module)}


def main(argv: Sequence[str]) -> None:
    """Measures what is not in the file yet."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    for name in _ATTACKS.value:
        if name not in ATTACKS:
            raise app.UsageError(f"--attacks has {name!r}: some of {', '.join(ATTACKS)}.")
    classes = installed_libraries(_LIBRARIES.value)
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    rows = _read(out)
    from tfadv.models import files

    for defense in _DEFENSES.value:
        model = files.load(pathlib.Path(_WORKDIR.value) / "models" / _MODEL.value / defense / "model.keras")
        x, y = load_test_images(_WORKDIR.value, _DATA_DIR.value, model.input_shape[1], _IMAGES.value)
        task = Task(_MODEL.value, model, x, y, _BATCH.value, _SEED.value)
        libraries = {name: library(task) for name, library in classes.items()}
        for eps in map(float, _EPS.value):
            case = dict(defense=defense, eps=eps, images=len(y), seed=_SEED.value)
            for attack in _ATTACKS.value:
                for name, library in libraries.items():
                    key = case | dict(attack=attack, library=name)
                    if attack in library.attacks and not any(key.items() <= row.items() for row in rows):
                        rows.append(key | measure(library, attack, eps))
                        _write(out, rows)


def _read(out: pathlib.Path) -> list[dict[str, Any]]:
    """The rows that earlier calls have measured."""
    file = out / "strength.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _write(out: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row) for row in rows]
    temporary = out / "strength.jsonl.new"  # a kill leaves the earlier rows
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(out / "strength.jsonl")
    table = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    (out / "strength.md").write_text("".join(f"| {' | '.join(map(str, cells))} |\n" for cells in table))
    print(lines[-1], flush=True)


if __name__ == "__main__":
    try:
        main(SETTINGS(sys.argv))
    except flags.Error as error:  # --help is one
        sys.exit(f"{__doc__}\n{SETTINGS.get_help()}\n{error}")
    except app.UsageError as error:
        sys.exit(str(error))
