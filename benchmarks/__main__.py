"""What an evaluation costs, beside other libraries and beside itself, in one table.

    python -m benchmarks --data_dir=tfds_data --folder=runs/nearest [--only=autoattack,fmn] [--norm=l2]

Attacks the two networks of `benchmarks.nearest`, and the same ones in PyTorch.  The two sides of a row take turns.  How
many times faster tfadv is, is the median of the turns, with the least and the greatest; the first run of each, in which
tfadv compiles, does not count.  All rows in L-infinity take about 50 minutes on 2 cores.  auto-attack and
adversarial-library (`adv-lib` on PyPI) are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import tfadv  # before TensorFlow

import keras
import numpy as np

from benchmarks.nearest import flags, in_torch, on_both
from tfadv.attacks import PGD, AutoAttack, parse, pgd
from tfadv.attacks.autoattack import STANDARD

ATTACKED = 100  # images
SIZES = {  # norm → network → eps; the parts of AutoAttack and the other attacks take the last
    "linf": {"clean": (8 / 255, 4 / 255, 2 / 255), "nfgsm": (1 / 255, 4 / 255)},
    "l2": {"clean": (0.25,), "nfgsm": (0.5,)},
    "l1": {"clean": (4.0,), "nfgsm": (12.0,)},
}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait busily slow PyTorch down on shared cores
# attack of tfadv → (attack of adversarial-library, norm of the distances, its settings); as many gradients as tfadv's
NEAREST: dict[str, tuple[str, float, dict]] = {
    "fmn": ("fmn", np.inf, {"steps": 109, "norm": np.inf}),
    "fab(steps=20)": ("fab", np.inf, {"n_iter": 20, "norm": np.inf}),
    "fmn(norm=l2)": ("fmn", 2, {"steps": 109, "norm": 2}),
    "ddn": ("ddn", 2, {"steps": 100, "levels": None}),
    "fab(norm=l2, steps=20)": ("fab", 2, {"n_iter": 20, "norm": 2}),
    "sigma-zero": ("sigma_zero", 0, {"num_steps": 1000}),
}
HEAD = ["network", "attack", "eps", "beside", "robust, or median distance", "beside", "images that differ"]
HEAD += ["passes per image", "beside", "seconds", "beside", "times faster"]


class Found(NamedTuple):
    """What one side of a row finds: bool (N,), which images are robust, or their distances; and the passes it takes."""

    values: np.ndarray
    passes: int


class Row(NamedTuple):
    """Two sides: the attack of tfadv, and what it is compared with."""

    attack: str
    eps: float | None
    ours: Callable[[], Found]
    beside: str
    theirs: Callable[[], Found]


def of_tfadv(attack: Any, model: keras.Model, x: np.ndarray, y: np.ndarray, eps: float | None) -> Found:
    """What `tfadv.evaluate` finds."""
    result = tfadv.evaluate(model, x, y, attack, eps)
    values = result.distances if eps is None else result.robust[0]
    return Found(values, result.cost.gradients + result.cost.forwards)


def without_cycles(model: keras.Model, x: np.ndarray, y: np.ndarray, eps: float) -> Found:
    """What PGD finds that does not end where it returns to an earlier image."""
    renewals, pgd.RENEWALS = pgd.RENEWALS, 0 * pgd.RENEWALS
    try:
        return of_tfadv(PGD(steps=100), model, x, y, eps)
    finally:
        pgd.RENEWALS = renewals


def of_auto_attack(
    parts: tuple[str, ...], norm: str, network: Any, model: keras.Model, x: np.ndarray, y: np.ndarray, eps: float
) -> Found:
    """What the public auto-attack finds; the Keras model says whether its images are adversarial."""
    from autoattack import AutoAttack as Public
    import torch

    attack = Public(network, norm=norm.capitalize(), eps=eps, seed=0, device="cpu", verbose=False)
    attack.attacks_to_run, before = list(parts), network.passes
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    found = attack.run_standard_evaluation(images, torch.tensor(y), bs=len(y)).numpy().transpose(0, 2, 3, 1)
    passes = network.passes - before
    return Found(tfadv.evaluate(model, found, y, None).clean_correct, passes)


def of_adversarial_library(
    attack: str, norm: float, settings: dict, network: Any, x: np.ndarray, y: np.ndarray
) -> Found:
    """What adversarial-library finds; distances are infinite where its image is not adversarial."""
    import torch
    from adv_lib import attacks

    x, y = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)
    before = network.passes
    found = getattr(attacks, attack)(network, x, y, **settings)
    passes = network.passes - before
    with torch.no_grad():
        fools = (network(found).argmax(1) != y).numpy()
    return Found(np.where(fools, (found - x).flatten(1).norm(p=norm, dim=1).numpy(), np.inf), passes)


def rows(name: str, norm: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> Iterator[Row]:
    """All rows of a network."""
    sizes, network = SIZES[norm][name], None
    if find_spec("autoattack") or find_spec("adv_lib"):
        network = in_torch(model)
    images, eps = (model, x, y), sizes[-1]
    parts = [(STANDARD, size) for size in sizes] + [((part,), eps) for part in STANDARD]
    for part, size in parts if find_spec("autoattack") else ():
        ours = functools.partial(of_tfadv, AutoAttack(norm=norm, attacks=part), *images, size)
        theirs = functools.partial(of_auto_attack, part, norm, network, *images, size)
        yield Row("autoattack" if part == STANDARD else part[0], size, ours, "auto-attack", theirs)
    auto = functools.partial(of_tfadv, AutoAttack(norm=norm), *images, eps)
    yield Row("fast", eps, functools.partial(of_tfadv, parse(f"fast(norm={norm})"), *images, eps), "autoattack", auto)
    if norm == "linf":
        ends = functools.partial(of_tfadv, PGD(steps=100), *images, eps)
        goes_on = functools.partial(without_cycles, *images, eps)
        yield Row("pgd(steps=100)", eps, ends, "without its end at cycles", goes_on)
        for attack, settings in NEAREST.items() if find_spec("adv_lib") else ():
            theirs = functools.partial(of_adversarial_library, *settings, network, x, y)
            yield Row(attack, None, functools.partial(of_tfadv, attack, *images, None), "adversarial-library", theirs)


def measured(row: Row, runs: int) -> list[str]:
    """The cells of a row, but for the network."""
    seconds: list[list[float]] = [[], []]
    found: list[Any] = [None, None]
    for run in range(runs + 1):
        for side, call in enumerate((row.ours, row.theirs)):
            started = time.monotonic()
            found[side] = call()
            if run:
                seconds[side].append(time.monotonic() - started)
    ratios = np.divide(seconds[1], seconds[0])
    ours, theirs = (each.values for each in found)
    figures = [f"{each.sum()}" if each.dtype == bool else f"{np.median(each):.3g}" for each in (ours, theirs)]
    differ = f"{(ours != theirs).sum()}" if ours.dtype == bool else "–"
    size = "–" if row.eps is None else f"{row.eps:.4g}"
    cells = [row.attack, size, row.beside, *figures, differ]
    cells += [f"{each.passes / len(ours):,.0f}" for each in found]
    cells += [f"{np.median(each):.1f}" for each in seconds]
    return [*cells, f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"]


def measure(options: argparse.Namespace, name: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Prints the rows of a network, of images that it classifies correctly."""
    correct = np.flatnonzero(tfadv.evaluate(model, x, y, None).clean_correct)[:ATTACKED]
    x, y = x[correct], y[correct].astype("int64")
    for row in rows(name, options.norm, model, x, y):
        if not options.only or row.attack.startswith(tuple(options.only.split(","))):
            print(f"| {name} | {' | '.join(measured(row, options.runs))} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="beginnings of the names of attacks, with commas between them")
    parser.add_argument("--norm", choices=SIZES, default="linf")
    parser.add_argument("--runs", type=int, default=3)
    options = flags(parser)
    print(f"{' '.join(['python -m benchmarks', *sys.argv[1:]])}\n{os.cpu_count()} cores, {platform.machine()}\n")
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    on_both(functools.partial(measure, options), options)
