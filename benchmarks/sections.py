"""What is measured: one function per section, which adds its rows to a `Bench`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench import Bench, Case
from benchmarks.processes import Failed, Timing, Worker, alternate

EPSILONS = (0.01, 0.02, 0.03)
PGD_EPS, PGD_STEPS = 0.03, 10
LEAST_SECONDS = 0.4  # of a measurement of something short
MAX_DIFFERENT = 1e-3  # share of pixels; beyond it two libraries have not computed the same


class AttackWork(NamedTuple):
    """An attack to time.

    Attributes:
      name: of its rows.
      method: of `Library`.
      arguments: of the method.
      least_step: the smallest distance that a pixel moves, to tell different images from rounding.
      passes: floating-point operations per image, in forward passes.
    """

    name: str
    method: str
    arguments: dict[str, Any]
    least_step: float
    passes: float


FGSM = AttackWork("FGSM, 3 eps", "fgsm", {"epsilons": EPSILONS}, min(EPSILONS), 2)
PGD = AttackWork("PGD-10", "pgd", {"eps": PGD_EPS, "steps": PGD_STEPS}, PGD_EPS / 4, 2 * PGD_STEPS)


def fgsm(bench: Bench) -> None:
    """FGSM at three eps, all libraries on the same network and images."""
    _attack_section(bench, FGSM)


def pgd(bench: Bench) -> None:
    """PGD of ten steps without a random start, likewise."""
    _attack_section(bench, PGD)


def _attack_section(bench: Bench, work: AttackWork) -> None:
    with bench.workers(*bench.libraries) as workers:
        for case in bench.cases:
            bench.prepare(workers, case)
            attack_rows(bench, workers, case, work)


def attack_rows(bench: Bench, workers: Sequence[Worker], case: Case, work: AttackWork) -> None:
    """Times an attack by all libraries and checks that they compute the same images; the first worker is tfadv's."""
    adversarial, remarks = {}, {}
    for worker in workers:
        try:
            adversarial[worker.name] = worker.call(work.method, **work.arguments)[1]
        except Failed as error:
            remarks[worker.name] = str(error)
    for name, x in adversarial.items():
        different = float((np.abs(x - adversarial["tfadv"]) > work.least_step / 2).mean())
        if different > MAX_DIFFERENT:
            remarks[name] = f"void: {different:.2%} of the pixels differ from tfadv's"
    calls = {
        worker.name: worker.timed(work.method, LEAST_SECONDS, **work.arguments)
        for worker in workers
        if worker.name in adversarial
    }
    timings = alternate(calls, bench.rounds)
    for name, timing in timings.items():
        passes = work.passes if name == "tfadv" else 0  # others may need more gradients for the same images
        bench.add(work.name, case, name, case.batch, timing, passes=passes, remark=remarks.get(name))
        if name != "tfadv" and name not in remarks:
            bench.add_ratio(work.name, case, timings["tfadv"], name, timing)
    for name in remarks.keys() - adversarial.keys():
        bench.add_value(work.name, case, name, remark=remarks[name])


def training(bench: Bench) -> None:
    """A step on a batch in memory, whole epochs, peak memory, and mixed precision."""
    steps = 1 if bench.quick else 4
    libraries = [name for name in ("tfadv", "torchattacks") if name in bench.libraries]
    for case in bench.cases[: len(bench.models)]:
        images = steps * case.batch
        with bench.workers(*libraries) as workers:
            bench.prepare(workers, case)
            for worker in workers:
                worker.call("prepare_training")
            timings = alternate({w.name: w.timed("train", steps=steps) for w in workers}, 2 * bench.rounds)
            for name, timing in timings.items():
                bench.add("training step", case, name, images, timing, passes=3)
                if name != "tfadv":
                    bench.add_ratio("training step", case, timings["tfadv"], name, timing)
            if case == bench.cases[0]:
                ten_seconds = math.ceil(10 * steps / timings["tfadv"].median)
                _epoch_rows(bench, workers, case, 2 if bench.quick else ten_seconds)
            for worker in workers:
                bench.add_value("peak memory, training", case, worker.name, bytes=worker.call("peak_memory")[1])
    _mixed_precision(bench, bench.cases[0], steps)


def _mixed_precision(bench: Bench, case: Case, steps: int) -> None:
    """A training step in mixed_bfloat16 beside float32."""
    with bench.workers("tfadv", "tfadv") as workers:
        bench.prepare(workers, case)
        calls = {}
        for worker, precision in zip(workers, ("float32", "mixed_bfloat16")):
            worker.call("prepare_training", precision=precision)
            calls[precision] = worker.timed("train", steps=steps)
        timings = alternate(calls, 2 * bench.rounds)
        bench.add_ratio("step, mixed_bfloat16", case, timings["mixed_bfloat16"], "float32", timings["float32"])


def _epoch_rows(bench: Bench, workers: Sequence[Worker], case: Case, batches: int) -> None:
    """Epochs by each library, beside tfadv's steps alone."""
    tfadv, *others = workers
    for worker in workers:
        worker.call("prepare_training", images=batches * case.batch)
    calls = {worker.name: worker.timed("epochs", number=1, folder=bench.folder) for worker in others}
    calls["tfadv"] = lambda: epoch_seconds(tfadv, bench.folder)
    calls["steps alone"] = tfadv.timed("train", steps=batches)
    timings = alternate(calls, bench.rounds // 2 + 1)
    for name, timing in timings.items():
        bench.add("epoch", case, name, batches * case.batch, timing)
        if name != "tfadv":
            bench.add_ratio("epoch", case, timings["tfadv"], name, timing)


def epoch_seconds(tfadv: Worker, folder: str) -> float:
    """The seconds of an epoch of `Trainer.fit`, > 0: half of the difference between three epochs and one.

    That leaves out what a call costs once, whatever the number of epochs.  Tiny epochs can be lost in noise: where
    three take no longer than one, it is a third of the three, rather too slow than too fast.
    """
    once, thrice = (tfadv.call("epochs", number=k, folder=folder)[0] for k in (1, 3))
    return (thrice - once) / 2 if thrice > once else thrice / 3


def samples(bench: Bench) -> None:
    """Computing and writing stored samples, their size, and training on them."""
    case = bench.cases[0]
    count = 2 * case.batch if bench.quick else 48 * case.batch
    with bench.workers("tfadv") as (tfadv,):
        bench.prepare([tfadv], case)
        dataset = tfadv.call("prepare_samples", n=count, data_dir=bench.data_dir)[1]
        calls = {
            "attack alone": tfadv.timed("attack_samples"),
            "generate": tfadv.timed("generate", folder=bench.folder),
            "read samples": tfadv.timed("read", folder=bench.folder, epsilons=EPSILONS),
        }
        timings = alternate(calls, bench.rounds)
        for work, timing in timings.items():
            bench.add(work, case, "tfadv", count, timing)
        bench.add_ratio("generate", case, timings["generate"], "attack alone", timings["attack alone"])
        stored = tfadv.call("generate", folder=bench.folder)[1] / count
        share = f"{dataset}: 1/{3 * 4 * 3 * case.size**2 / stored:.1f} of float32 copies at three eps"
        bench.add_value("bytes per sample", case, "tfadv", bytes=stored, remark=share)
        tfadv.call("prepare_training", images=case.batch)
        read = tfadv.call("read", return_result=False, folder=bench.folder, epsilons=EPSILONS)[0]
        tfadv.call("epochs", number=1, folder=bench.folder)
        timing = Timing((read + epoch_seconds(tfadv, bench.folder),))
        bench.add("epoch on stored samples, reading included", case, "tfadv", 4 * count, timing)


def growth(bench: Bench) -> None:
    """How the cost grows with the number of eps, the size of image and batch, and the number of images."""
    case = bench.cases[0]
    with bench.workers("tfadv") as (tfadv,):
        bench.prepare([tfadv], case)
        counts = (1, 3, 10)
        epsilons = {e: tuple(np.linspace(0.01, 0.03, e).tolist()) for e in counts}
        calls = {str(e): tfadv.timed("fgsm", LEAST_SECONDS, epsilons=epsilons[e]) for e in counts}
        timings = alternate(calls, 2 * bench.rounds)
        for e, timing in timings.items():
            bench.add(f"FGSM, {e} eps", case, "tfadv", case.batch, timing, cost=timing.median / timings["1"].median)
        for size in (16, 32) if bench.quick else (32, 64, 128, 224):
            batch = max(4, case.batch * case.size**2 // size**2)
            _fgsm_row(bench, tfadv, "FGSM, image size", case._replace(size=size, batch=batch))
        for batch in (8, 16) if bench.quick else (1, 8, 32, 128, 512):
            _fgsm_row(bench, tfadv, "FGSM, batch size", case._replace(batch=batch))
        bench.prepare([tfadv], case)
        for batches in (1, 2) if bench.quick else (10, 20, 40):
            images = batches * case.batch
            tfadv.call("prepare_training", images=images)
            timing = alternate({"": lambda: epoch_seconds(tfadv, bench.folder)}, 1 if bench.quick else 3)[""]
            bench.add("epoch, number of images", case, "tfadv", images, timing, remark=f"{images} images")


def _fgsm_row(bench: Bench, tfadv: Worker, name: str, case: Case) -> None:
    """FGSM by tfadv alone."""
    bench.prepare([tfadv], case)
    timings = alternate({"": tfadv.timed("fgsm", LEAST_SECONDS, epsilons=EPSILONS)}, bench.rounds)
    bench.add(name, case, "tfadv", case.batch, timings[""], passes=2)


def start(bench: Bench) -> None:
    """From a new process to the first attack and the first training step, tracing included."""
    case = bench.cases[0]
    with bench.workers("tfadv") as (tfadv,):
        bench.prepare([tfadv], case)  # writes the weights
    for name in [name for name in ("tfadv", "torchattacks") if name in bench.libraries]:
        started = time.perf_counter()
        with bench.workers(name) as (worker,):
            worker.call("prepare", model=case.model, size=case.size, n=case.batch, weights=bench.weights_path(case))
            worker.call("fgsm", return_result=False, epsilons=EPSILONS)
            attacked = time.perf_counter() - started
            worker.call("prepare_training", images=case.batch)
            worker.call("train", steps=1)
            trained = time.perf_counter() - started
        bench.add_value("start to first attack", case, name, seconds=attacked)
        bench.add_value("start to first training step as well", case, name, seconds=trained)


SECTIONS = {"fgsm": fgsm, "pgd": pgd, "training": training, "samples": samples, "growth": growth, "start": start}
