"""One run of the benchmark: its contenders, its rows, and the goals they are held against."""

import contextlib
import datetime
import json
import os
import pathlib
import platform

from benchmarks import table
from benchmarks.processes import Contender, by_turns, installed

# Of the table that decides: (work, against) → the least ratio of rates, from tfadv's own goals.
GOALS = {
    ("FGSM, 3 eps", "torchattacks"): 3,
    ("FGSM, 3 eps", "CleverHans"): 5,
    ("FGSM, 3 eps", "ART"): 15,
    ("FGSM, 3 eps", "Foolbox"): 15,
    ("PGD-10", "torchattacks"): 1.15,
    ("training step", "torchattacks"): {"resnet18": 1.3, "resnet50": 1.15, "resnet101": 1.15},
    ("epoch", "own bare step"): 0.95,
    ("generate", "own bare attack"): 0.9,
}


class Bench:
    """One run: where its rows go, the machine's limit, the weights that all contenders share."""

    def __init__(self, out, folder, *, models, sizes, repeats, quick, data_dir):
        self.out, self.folder, self.data_dir, self.quick = pathlib.Path(out), folder, data_dir, quick
        self.models = ["resnet_tiny"] if quick else models
        self.sizes = (
            {16: 8} if quick else {size: 4096 // size for size in sizes}
        )  # pixels of a side → images of a batch
        self.repeats = 1 if quick else repeats
        self.installed, self.limit, self.flops, self.versions, self.rows = installed(), None, {}, {}, []

    def measure_limit(self):
        """FLOP/s of this machine in float32 matrix products: no row can do more."""
        n = 256 if self.quick else 2048
        with self.contenders("tfadv") as (tfadv,):
            seconds = by_turns({"matmul": lambda: tfadv.call("matmul", n=n)[0]}, 9)["matmul"]["median"]
        self.limit = 2 * n**3 / seconds

    @contextlib.contextmanager
    def contenders(self, *names):
        made = [Contender(name) for name in names]
        for contender in made:
            self.versions[contender.name] = contender.call("version")[1]
        try:
            yield made
        finally:
            for contender in made:
                contender.close()

    def prepare(self, contenders, model, size, n):
        """The same weights and images for all; the first contender must be tfadv's where the weights are new."""
        path = os.path.join(self.folder, f"{model}-{size}.npz")
        if (model, size) not in self.flops:
            self.flops[model, size] = contenders[0].call("write_weights", model=model, size=size, path=path)[1]
        for contender in contenders:
            contender.call("prepare", model=model, size=size, n=n, weights=path)

    def add(self, work, model, size, n, contender, images, timing, *, passes=0, against=None, **more):
        """One row.

        Args:
          images: int, how many one call worked on.
          timing: what `by_turns` gave for it.
          passes: floating-point operations for an image, in forward passes; 0 gives no share of the limit.
          against: (name, its timing, its images) to give the ratio of rates with.
          more: further fields.
        """
        row = {"work": work, "model": model, "size": size, "batch": n, "contender": contender, **more}
        row["images_per_second"] = images / timing["median"]
        row["from"], row["to"] = images / timing["most"], images / timing["least"]
        if passes:
            row["flops_share"] = passes * self.flops[model, size] * row["images_per_second"] / self.limit
        if against:
            name, other, other_images = against
            row["against"], row["ratio"] = name, row["images_per_second"] * other["median"] / other_images
            goal = None if self.quick else GOALS.get((work, name))
            row["goal"] = goal.get(model) if isinstance(goal, dict) else goal
        self.keep(row)

    def keep(self, row):
        self.rows.append(row)
        print(table.line(row), flush=True)
        self.write()

    def write(self):
        """Results are written as they come."""
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "system": platform.system(),
                "matmul_gflops": self.limit / 1e9,
            },
            "versions": self.versions | {"Python": platform.python_version()},
            "repeats": self.repeats,
            "rows": self.rows,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
        (self.out / "table.md").write_text(table.markdown(result))


def processor():
    """str, the model name of this machine's processor."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor()
