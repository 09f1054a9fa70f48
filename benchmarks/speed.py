"""Times tfadv and, where they are installed, other libraries: `python -m benchmarks.speed`.

All attack and train the same network with the same random weights, images and labels, each in a process of its own, on
all cores.  They take turns, A B C A B C, and medians over the rounds are shown, so that other work on the machine
affects all alike.  Compare ratios: images per second differ between machines and hours.  The attacks must compute the
same adversarial images: where more than one pixel in a thousand differs from tfadv's, the row is void.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks.speed_libraries import LIBRARIES, Case, installed

SETTINGS = flags.FlagValues()
flags.DEFINE_string("model", "resnet18", "The network, one of `tfadv.models.MODELS`.", flag_values=SETTINGS)
flags.DEFINE_integer("image_size", 32, "Height and width of the images in pixels.", flag_values=SETTINGS)
flags.DEFINE_integer("batch_size", 128, "Images per call.", flag_values=SETTINGS)
flags.DEFINE_integer("rounds", 5, "Rounds in which the libraries take turns.", lower_bound=1, flag_values=SETTINGS)
flags.DEFINE_list("libraries", list(LIBRARIES), "Which libraries.", flag_values=SETTINGS)
flags.DEFINE_list("defenses", ["nfgsm", "pgd(steps=2)"], "Whose update to time, tfadv only.", flag_values=SETTINGS)

LEAST_SECONDS = 0.4  # of a measurement; short calls are repeated
PAUSE = 0.2  # seconds, in which the threads of the library before fall asleep
MAX_DIFFERENT = 1e-3  # share of the pixels
HEAD = ("task", "library", "images/s", "slowest round", "fastest round", "tfadv is faster by", "remark")


class Task(NamedTuple):
    """What is timed.

    Attributes:
      name: of its rows.
      method: of the libraries; those without it are left out.
      arguments: of the method.
      step: for attacks, the smallest distance that they move a pixel, which tells different images from rounding.
    """

    name: str
    method: str
    arguments: dict[str, Any]
    step: float | None = None


ATTACKS = (
    Task("FGSM, 3 eps", "fgsm", {"epsilons": (0.01, 0.02, 0.03)}, 0.01),
    Task("PGD, 10 steps", "pgd", {"eps": 0.03, "steps": 10}, 0.03 / 4),
)


class Failed(Exception):
    """A library raised an exception, which the message quotes."""


class Worker:
    """A library in a process of its own.

    Attributes:
      name: a name in `LIBRARIES`.
    """

    def __init__(self, name: str, case: Case) -> None:
        """Starts the process."""
        context = multiprocessing.get_context("spawn")  # neither TensorFlow nor PyTorch survives a fork
        self.name = name
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, name, case), daemon=True)
        self._process.start()

    def call(self, method: str, arguments: dict[str, Any]) -> tuple[float, Any]:
        """Calls a method of the library, again until `LEAST_SECONDS` have passed: (mean seconds, the last result).

        Raises:
          Failed: the library raised an exception.
        """
        self._pipe.send((method, arguments))
        seconds, result, error = self._pipe.recv()
        if error:
            raise Failed(error)
        return seconds, result

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: multiprocessing.connection.Connection, name: str, case: Case) -> None:
    """Runs in the process of a library: calls its methods as the parent asks, and times them."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    library = None
    while (message := pipe.recv()) is not None:
        method, arguments = message
        try:
            library = library or LIBRARIES[name](case)
            calls, started = 0, time.perf_counter()
            while not calls or time.perf_counter() - started < LEAST_SECONDS:
                result, calls = getattr(library, method)(**arguments), calls + 1
            pipe.send(((time.perf_counter() - started) / calls, result, None))
        except Exception as error:  # becomes a remark in the library's row
            traceback.print_exc()
            pipe.send((0.0, None, f"{type(error).__name__}: {error}"))


def measure(workers: Sequence[Worker], task: Task, images: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows of one task, with the columns of `HEAD`.

    Args:
      workers: the libraries, tfadv first.
      task: what to time.
      images: number of images of each call.
      rounds: how often each library has its turn, after one call to warm up.
    """
    results, remarks = {}, {}
    for worker in workers:
        try:
            _, results[worker.name] = worker.call(task.method, task.arguments)
        except Failed as error:
            remarks[worker.name] = " ".join(str(error).split())[:100]
    for name, found in results.items():
        if task.step and "tfadv" in results:
            different = float((np.abs(found - results["tfadv"]) > task.step / 2).mean())
            if different > MAX_DIFFERENT:
                remarks[name] = f"void: {different:.2%} of the pixels differ from tfadv's"
    rates: dict[str, list[float]] = {name: [] for name in results}
    for _ in range(rounds):
        for worker in workers:
            if worker.name in results:
                time.sleep(PAUSE)
                rates[worker.name].append(images / worker.call(task.method, task.arguments)[0])
    for worker in workers:
        shown, factor = ["–"] * 3, ""
        if worker.name in rates:
            own = rates[worker.name]
            shown = [f"{rate:,.0f}" for rate in (statistics.median(own), min(own), max(own))]
            if worker.name != "tfadv" and worker.name not in remarks and "tfadv" in rates:
                factor = f"{statistics.median(rates['tfadv']) / statistics.median(own):.2f}"
        yield task.name, worker.name, *shown, factor, remarks.get(worker.name, "")


def main(argv: Sequence[str]) -> None:
    """Prints a Markdown table, row by row."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    for name in SETTINGS.libraries:
        if name not in LIBRARIES:
            raise app.UsageError(f"--libraries has {name!r}: some of {', '.join(LIBRARIES)}.")
    updates = [Task(f"update, {defense}", "train_defense", {"defense": defense}) for defense in SETTINGS.defenses]
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "weights.npz")  # written by tfadv, which comes first
        case = Case(SETTINGS.model, SETTINGS.image_size, SETTINGS.batch_size, weights)
        workers = [Worker(name, case) for name in installed(["tfadv", *SETTINGS.libraries])]
        print(", ".join(" ".join(worker.call("version", {})[1].split()) for worker in workers) + "\n")
        for row in (HEAD, ["---"] * len(HEAD)):
            print(f"| {' | '.join(row)} |")
        for task in (*ATTACKS, Task("update, clean images", "train", {}), *updates):
            able = [worker for worker in workers if hasattr(LIBRARIES[worker.name], task.method)]
            for row in measure(able, task, case.batch_size, SETTINGS.rounds):
                print(f"| {' | '.join(row)} |", flush=True)
        for worker in workers:
            worker.close()


if __name__ == "__main__":
    try:
        main(SETTINGS(sys.argv))
    except flags.Error as error:  # --help is one
        sys.exit(f"{__doc__}\n{SETTINGS.get_help()}\n{error}")
    except app.UsageError as error:
        sys.exit(str(error))
