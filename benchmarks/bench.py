"""One run of the benchmark: its libraries, its rows, and the goals that they are compared with."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import table
from benchmarks.libraries import installed
from benchmarks.processes import Timing, Worker, alternate

# tfadv's goals: (work, compared with) → the least ratio of rates, for all models or for each.
GOALS: dict[tuple[str, str], float | dict[str, float]] = {
    ("FGSM, 3 eps", "torchattacks"): 3,
    ("FGSM, 3 eps", "CleverHans"): 5,
    ("FGSM, 3 eps", "ART"): 15,
    ("FGSM, 3 eps", "Foolbox"): 15,
    ("PGD-10", "torchattacks"): 1.15,
    ("training step", "torchattacks"): {"resnet18": 1.3, "resnet50": 1.15, "resnet101": 1.15},
    ("epoch", "steps alone"): 0.95,
    ("generate", "attack alone"): 0.9,
}


class Case(NamedTuple):
    """What is attacked or trained: a model, the pixels per side of its images, and images per batch."""

    model: str
    size: int
    batch: int


class Options(NamedTuple):
    """What a run measures.

    Attributes:
      models: names in `tfadv.models.MODELS`; all but the attacks run on the first only.
      sizes: pixels per side, for the attacks; all else runs at the first only.
      rounds: of alternation.
      quick: tiny sizes and one round, to see whether it runs.
      data_dir: folder of the TFDS data sets.
    """

    models: tuple[str, ...]
    sizes: tuple[int, ...]
    rounds: int
    quick: bool
    data_dir: str


class Bench:
    """One run.

    Attributes:
      quick, rounds, models, data_dir: see `Options`; with `quick`, tiny values.
      cases: every model at every size.
      libraries: names of the libraries that can run here, tfadv first.
      rows: the results so far.
    """

    def __init__(self, out: str | os.PathLike, folder: str | os.PathLike, options: Options) -> None:
        """Starts without rows.

        Args:
          out: folder for results.json and table.md.
          folder: for temporary files.
          options: what to measure.
        """
        self.out, self.folder = pathlib.Path(out), str(folder)
        self.quick, self.data_dir = options.quick, options.data_dir
        self.models = ("resnet_tiny",) if self.quick else options.models
        batches = {16: 8} if self.quick else {size: 4096 // size for size in options.sizes}
        self.cases = [Case(model, size, batch) for size, batch in batches.items() for model in self.models]
        self.rounds = 1 if self.quick else options.rounds
        self.libraries, self.rows = installed(), list[dict[str, Any]]()
        self.matmul_rate = 0.0  # float32 FLOP/s in products of matrices: no row can exceed it
        self._flops: dict[tuple[str, int], int] = {}  # (model, size) → of a forward pass
        self._versions: dict[str, str] = {}

    def measure_matmul_rate(self) -> None:
        """Sets `matmul_rate`."""
        n = 256 if self.quick else 2048
        with self.workers("tfadv") as (tfadv,):
            seconds = alternate({"matmul": tfadv.timed("matmul", n=n)}, 9)["matmul"].median
        self.matmul_rate = 2 * n**3 / seconds

    @contextlib.contextmanager
    def workers(self, *names: str) -> Iterator[list[Worker]]:
        """Starts the processes of these libraries and ends them afterwards."""
        workers = [Worker(name) for name in names]
        for worker in workers:
            self._versions[worker.name] = worker.call("version")[1]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.close()

    def prepare(self, workers: Sequence[Worker], case: Case) -> None:
        """Gives all libraries the same weights and images; the first worker must be tfadv's, which creates them."""
        path = self.weights_path(case)
        if case[:2] not in self._flops:
            _, flops = workers[0].call("write_weights", model=case.model, size=case.size, path=path)
            self._flops[case.model, case.size] = flops
        for worker in workers:
            worker.call("prepare", model=case.model, size=case.size, n=case.batch, weights=path)

    def weights_path(self, case: Case) -> str:
        """The file of a model's weights."""
        return os.path.join(self.folder, f"{case.model}-{case.size}.npz")

    def add(
        self,
        work: str,
        case: Case,
        library: str,
        images: int,
        timing: Timing,
        *,
        passes: float = 0,
        **more: Any,
    ) -> None:
        """Adds the row of a rate.

        Args:
          work: what was timed.
          case: on what.
          library: by which library.
          images: images per call.
          timing: of the calls.
          passes: floating-point operations per image, in forward passes; 0 adds no share of `matmul_rate`.
          **more: further fields.
        """
        rate = images / timing.median
        row = _row(work, case, library) | more
        row |= {"images_per_second": rate, "from": images / timing.most, "to": images / timing.least}
        if passes:
            row["flops_share"] = passes * self._flops[case.model, case.size] * rate / self.matmul_rate
        self.add_row(row)

    def add_ratio(self, work: str, case: Case, own: Timing, other_name: str, other: Timing) -> None:
        """Adds the row that compares tfadv's rate with another one on the same number of images."""
        goal = None if self.quick else GOALS.get((work, other_name))
        goal = goal.get(case.model) if isinstance(goal, dict) else goal
        ratio = {"against": other_name, "ratio": other.median / own.median, "goal": goal}
        self.add_row(_row(work, case, "tfadv") | ratio)

    def add_value(self, work: str, case: Case, library: str, **fields: Any) -> None:
        """Adds a row with other fields: "seconds", "bytes" or "remark"."""
        self.add_row(_row(work, case, library) | fields)

    def add_row(self, row: dict[str, Any]) -> None:
        """Adds a row, prints it and writes all results."""
        self.rows.append(row)
        print(table.line(row), flush=True)
        self.write()

    def write(self) -> None:
        """Writes results.json and table.md."""
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "system": platform.system(),
                "matmul_gflops": self.matmul_rate / 1e9,
            },
            "versions": self._versions | {"Python": platform.python_version()},
            "rounds": self.rounds,
            "rows": self.rows,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        (self.out / "table.md").write_text(table.markdown(result))


def _row(work: str, case: Case, library: str) -> dict[str, Any]:
    return {"work": work, **case._asdict(), "library": library}


def processor() -> str:
    """The model name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()
