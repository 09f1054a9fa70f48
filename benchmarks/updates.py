"""Speed of one update of each defense, relative to standard training: `python -m benchmarks.updates`."""

from __future__ import annotations

import statistics
import time

import numpy as np

from tfadv import models, specs
from tfadv.objectives import OBJECTIVES
from tfadv.training import Trainer

PLAIN = "cross_entropy"
DEFENSES = "nfgsm(share=0.5),nfgsm,rsfgsm,pgd(steps=2),trades(steps=2)"
BATCH, ROUNDS, CALLS = 128, 11, 4


def main() -> None:
    """Prints images per second and the cost relative to cross-entropy; medians over rounds that take turns."""
    model = models.build("resnet18", (32, 32, 3), 10)
    objectives = {PLAIN: OBJECTIVES[PLAIN]} | {
        specs.label(name, settings): specs.build_with(name, settings, OBJECTIVES)
        for name, settings in specs.split_specs(DEFENSES, OBJECTIVES)
    }
    trainers = {name: Trainer(model, weight_decay=5e-4, objective=o) for name, o in objectives.items()}
    rng = np.random.default_rng(0)
    x, y = rng.random((BATCH, 32, 32, 3), np.float32), rng.integers(0, 10, BATCH)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(ROUNDS + 1):  # the first round compiles
        for name, trainer in trainers.items():
            start = time.perf_counter()
            for call in range(CALLS):
                sums = trainer.train_step(x, y, 0.03, (number, call))
            sums.numpy()
            if number:
                seconds[name].append((time.perf_counter() - start) / CALLS)
    plain = statistics.median(seconds[PLAIN])
    for name, own in seconds.items():
        median = statistics.median(own)
        print(f"{name:20} {BATCH / median:6.0f} images/s, {median / plain:.2f} times {PLAIN}", flush=True)


if __name__ == "__main__":
    main()
