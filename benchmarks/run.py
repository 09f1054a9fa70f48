"""Measures tfadv beside other libraries on this machine; see README.md.

python -m benchmarks.run --out=runs/benchmark
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from absl import app, flags

from benchmarks.bench import Bench, Options, processor
from benchmarks.sections import SECTIONS

_OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder for results.json and table.md.")
_SECTIONS = flags.DEFINE_list("sections", list(SECTIONS), "What to measure.")
_MODELS = flags.DEFINE_list("models", ["resnet18", "resnet50", "resnet101"], "Networks.")
_SIZES = flags.DEFINE_list("sizes", ["32", "64"], "Pixels per side, for the attacks; the first is used for all else.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of A B A B; medians are taken over them.", lower_bound=1)
flags.DEFINE_alias("repeats", "rounds")
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the TFDS data sets; CIFAR-10 is used if it is there.")
_QUICK = flags.DEFINE_boolean("quick", False, "Tiny sizes: whether it runs, not how fast.")


def main(argv: Sequence[str]) -> None:
    """Runs the sections of `--sections`."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    for name in _SECTIONS.value:
        if name not in SECTIONS:
            raise app.UsageError(f"--sections has {name!r}: some of {', '.join(SECTIONS)}.")
    sizes = tuple(int(size) for size in _SIZES.value)
    options = Options(tuple(_MODELS.value), sizes, _ROUNDS.value, _QUICK.value, _DATA_DIR.value)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(_OUT.value, folder, options)
        bench.measure_matmul_rate()
        rate = f"{bench.matmul_rate / 1e9:.0f} GFLOP/s in matrix products"
        print(f"{processor()}, {os.cpu_count()} cores: {rate}", flush=True)
        for name in _SECTIONS.value:
            SECTIONS[name](bench)
        bench.write()
    print(f"The tables: {bench.out / 'table.md'}")


if __name__ == "__main__":
    app.run(main)
