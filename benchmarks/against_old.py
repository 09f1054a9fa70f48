"""Compares the speed of this checkout's tfadv with that of another checkout, an older version, in one interleaved run.

python -m benchmarks.against_old --old=../tfadv-0.1

Each version lives in a process of its own, which stays alive, and is asked for
one timing at a time: old, new, old, new.  Both run the same Python and the same
libraries on the same weights, images and labels, and their results are compared.
The table goes to stdout.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks.bench import processor
from benchmarks.libraries import images
from benchmarks.processes import Timing, alternate
from benchmarks.table import cells

NEW = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = pathlib.Path(__file__).with_name("version_process.py")
TASKS = {
    "fgsm": "FGSM, 3 eps",
    "pgd": "PGD-10, all steps",
    "pgd_early_stop": "PGD-10, early stopping",
    "training_step": "training step",
    "stored_samples": "stored samples: attack and writing",
    "encoding": "stored samples: encoding",
    "png": "stored samples: PNG encoding",
}
EPS_EARLY_STOP = 0.0015  # at which about half of the images become adversarial within ten steps

_OLD = flags.DEFINE_string("old", None, "Folder of the older checkout, which holds tfadv/.", required=True)
_TASKS = flags.DEFINE_list("tasks", list(TASKS), "What to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timings of each version per task.", lower_bound=1)
_LEAST_SECONDS = flags.DEFINE_float("least_seconds", 0.5, "A timing repeats its call until so many seconds passed.")
_QUICK = flags.DEFINE_boolean("quick", False, "Tiny sizes and one round: whether it runs, not how fast.")


class Setup(NamedTuple):
    """What is timed: a model, pixels per side, images per batch, stored samples, and the least seconds of a timing."""

    model: str
    size: int
    batch: int
    samples: int
    least_seconds: float


class Failed(Exception):
    """A task failed in the process of a version, or the process ended."""


class VersionProcess:
    """A process with one version of tfadv.

    Attributes:
      version: `tfadv.__version__`.
      api: "0.1" or "0.2", the interface that it speaks.
    """

    def __init__(self, checkout: pathlib.Path, folder: pathlib.Path, **settings: Any) -> None:
        """Starts it.

        Args:
          checkout: the folder that holds tfadv/.
          folder: for its files.
          **settings: of `version_process.Tasks`.

        Raises:
          Failed: it does not start.
        """
        folder.mkdir()
        self._log = folder / "stderr.txt"
        environment = {**os.environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=environment,
            )
        try:
            answer = self.ask("start", checkout=str(checkout), folder=str(folder), **settings)
        except Failed:
            self.close()
            raise
        self.version, self.api = answer["version"], answer["api"]

    def ask(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request (see `version_process.main`) and waits for the answer.

        Raises:
          Failed: the task failed, or the process ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"kind": kind, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the process ended:\n{self._log.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def seconds(self, task: str, least_seconds: float) -> float:
        """Mean seconds per call of one timing of a task."""
        return self.ask("time", task=task, least_seconds=least_seconds)["seconds"]

    def result(self, task: str, path: pathlib.Path) -> np.ndarray:
        """What a task returns."""
        self.ask("result", task=task, path=str(path))
        return np.load(path)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A task's timings with both versions, and how their results compare."""

    task: str
    old: Timing
    new: Timing
    results: str

    @property
    def ratio(self) -> float:
        """How many times as fast the new version is, by the medians."""
        return self.old.median / self.new.median

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        by_round = [old / new for old, new in zip(self.old.seconds, self.new.seconds)]
        return (
            self.task,
            f"{1e3 * self.old.median:,.2f}",
            f"{1e3 * self.new.median:,.2f}",
            f"{self.ratio:.3f}",
            f"{min(by_round):.3f} / {statistics.median(by_round):.3f} / {max(by_round):.3f}",
            str(len(by_round)),
            self.results,
        )


def compare_results(old: np.ndarray, new: np.ndarray) -> str:
    """Both values where they are single numbers, otherwise how many values differ by more than rounding."""
    if old.ndim == 0:
        return f"{old:,.6g} / {new:,.6g}"
    if old.shape != new.shape:
        return f"shapes {old.shape} / {new.shape}"
    if np.array_equal(old, new):
        return "identical"
    different = float((np.abs(old - new) > 1e-6).mean())
    return f"{different:.2%} of the values differ" if different else "equal but for rounding"


def compare(
    processes: Mapping[str, VersionProcess], task: str, rounds: int, least_seconds: float, folder: pathlib.Path
) -> Comparison:
    """Times a task with the processes "old" and "new" in turn, and compares its results."""
    results = {name: process.result(task, folder / f"{name}.npy") for name, process in processes.items()}
    calls = {name: functools.partial(process.seconds, task, least_seconds) for name, process in processes.items()}
    timings = alternate(calls, rounds)
    return Comparison(TASKS[task], timings["old"], timings["new"], compare_results(results["old"], results["new"]))


def table(old_version: str, new_version: str, comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of the comparisons."""
    head = (
        "task",
        f"old ({old_version}), median ms",
        f"new ({new_version}), median ms",
        "new, times as fast",
        "by round: least / median / most",
        "rounds",
        "results, old / new",
    )
    return cells(head, [comparison.cells() for comparison in comparisons])


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    for task in _TASKS.value:
        if task not in TASKS:
            raise app.UsageError(f"--tasks has {task!r}: some of {', '.join(TASKS)}.")
    checkout = pathlib.Path(_OLD.value).resolve()
    if not (checkout / "tfadv" / "__init__.py").is_file():
        raise app.UsageError(f"--old={_OLD.value} holds no tfadv/.")
    setup = Setup("resnet18", 32, 128, 2048, _LEAST_SECONDS.value)
    if _QUICK.value:
        setup = Setup("resnet_tiny", 16, 8, 32, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            text = run(checkout, setup, _TASKS.value, 1 if _QUICK.value else _ROUNDS.value, pathlib.Path(folder))
        except Failed as error:
            sys.exit(str(error))
    print(text)


def run(checkout: pathlib.Path, setup: Setup, tasks: Sequence[str], rounds: int, folder: pathlib.Path) -> str:
    """Compares the versions in `checkout` and in this checkout; the table as Markdown.

    Raises:
      Failed: a version does not start, or a task fails.
    """
    inputs = folder / "inputs.npz"
    np.savez(inputs, x=images(setup.samples, setup.size)[0], eps=EPS_EARLY_STOP)
    processes: dict[str, VersionProcess] = {}
    try:
        for name, root in (("old", checkout), ("new", NEW)):
            settings = dict(model=setup.model, batch=setup.batch, inputs=str(inputs))
            processes[name] = VersionProcess(root, folder / name, **settings)
        comparisons = []
        for task in tasks:
            comparisons.append(compare(processes, task, rounds, setup.least_seconds, folder))
            print(f"{TASKS[task]}: {comparisons[-1].ratio:.3f} times as fast", file=sys.stderr, flush=True)
    finally:
        for process in processes.values():
            process.close()
    what = f"{setup.model}, {setup.size}×{setup.size} pixels, batch {setup.batch}, {setup.samples} stored samples"
    versions = processes["old"].version, processes["new"].version
    return f"{what}, {os.cpu_count()} cores of {processor()}.\n\n{table(*versions, comparisons)}"


if __name__ == "__main__":
    app.run(main)
