"""Measures tfadv beside its peers on this machine; see README.md.

python -m benchmarks.run --out=runs/benchmark
"""

import os
import tempfile

from absl import app, flags

from benchmarks.bench import Bench, processor
from benchmarks.sections import SECTIONS

_OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder for results.json and table.md.")
_SECTIONS = flags.DEFINE_list("sections", list(SECTIONS), "What to measure.")
_MODELS = flags.DEFINE_list("models", ["resnet18", "resnet50", "resnet101"], "Networks.")
_SIZES = flags.DEFINE_list("sizes", ["32", "64"], "Pixels of a side, for the attacks; the first is used for all else.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds of A B A B; medians are taken over them.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Home of the TFDS data sets; CIFAR-10 is used where it is there.")
_QUICK = flags.DEFINE_boolean("quick", False, "Tiny sizes: whether it runs, not how fast.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    for name in _SECTIONS.value:
        if name not in SECTIONS:
            raise app.UsageError(f"--sections has {name!r}: some of {', '.join(SECTIONS)}.")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            _OUT.value,
            folder,
            models=_MODELS.value,
            sizes=[int(size) for size in _SIZES.value],
            repeats=_REPEATS.value,
            quick=_QUICK.value,
            data_dir=_DATA_DIR.value,
        )
        bench.measure_limit()
        print(f"{processor()}, {os.cpu_count()} cores: {bench.limit / 1e9:.0f} GFLOP/s in matrix products", flush=True)
        for name in _SECTIONS.value:
            SECTIONS[name](bench)
        bench.write()
    print(f"The tables: {bench.out / 'table.md'}")


if __name__ == "__main__":
    app.run(main)
