"""FMN, DDN and FAB of tfadv beside those of adversarial-library: how near, at what cost.

    python -m benchmarks.nearest_libraries --data_dir=tfds_data --folder=runs/nearest [--autoattack=linf]

Attacks the networks of `benchmarks.nearest`, and the same ones in PyTorch.  The libraries take turns; seconds
are the median of their runs, of which tfadv's first one compiles.  adversarial-library is `adv-lib` on PyPI.
With --autoattack=linf, l2 or l1, it is AutoAttack, and each of its parts alone, beside the public auto-attack: one run
each.
"""

from __future__ import annotations

import functools
import os
import time
from importlib.util import find_spec
from typing import Any

import tfadv  # before TensorFlow

import keras
import numpy as np

from benchmarks.nearest import flags, on_both
from tfadv.attacks import AutoAttack
from tfadv.attacks.autoattack import STANDARD

RUNS = 3
ATTACKED = 100  # images, by AutoAttack
SIZES = {  # of AutoAttack: norm → network → eps
    "linf": {"clean": 2 / 255, "nfgsm": 4 / 255},
    "l2": {"clean": 0.25, "nfgsm": 0.5},
    "l1": {"clean": 4.0, "nfgsm": 12.0},
}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait busily slow PyTorch down on shared cores
# attack of tfadv → (attack of adversarial-library, norm, its settings); as many gradients as tfadv's
ATTACKS: dict[str, tuple[str, float, dict]] = {
    "fmn": ("fmn", np.inf, {"steps": 109}),
    "fab(steps=20)": ("fab", np.inf, {"n_iter": 20}),
    "fmn(norm=l2)": ("fmn", 2, {"steps": 109}),
    "ddn": ("ddn", 2, {"steps": 100, "levels": None}),
    "fab(norm=l2, steps=20)": ("fab", 2, {"n_iter": 20}),
}


def in_torch(model: keras.Model, dropout: float = 0.0) -> Any:
    """The network of `benchmarks.nearest` in PyTorch, with dropout; it counts gradients and passes of images."""
    import torch
    from torch.nn import functional

    class Network(torch.nn.Module):
        gradients = passes = 0

        def forward(self, x):
            self.passes += len(x)
            if x.requires_grad:
                x = x.clone()
                x.register_hook(self.count)
            x = torch.relu(functional.conv2d(x, *self.of[0], stride=2, padding=1))
            x = torch.relu(functional.conv2d(functional.pad(x, (0, 1, 0, 1)), *self.of[1], stride=2))
            x = functional.dropout(x.permute(0, 2, 3, 1).flatten(1), dropout)
            x = functional.dropout(torch.relu(functional.linear(x, *self.of[2])), dropout)
            return functional.linear(x, *self.of[3])

        def count(self, gradient):
            self.gradients += len(gradient)

    def turned(w):  # Keras: height, width, in, out; PyTorch: out, in, height, width
        return torch.tensor(np.ascontiguousarray(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T))

    network = Network().eval()
    network.of = [[turned(w) for w in layer.get_weights()] for layer in model.layers if layer.weights]
    return network


def of_library(attack: str, norm: float, settings: dict, network: Any, x: np.ndarray, y: np.ndarray):
    """(distances (N,), inf where the image found is not adversarial; gradients; seconds)."""
    import torch
    from adv_lib import attacks

    x, y = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)
    before, started = network.gradients, time.monotonic()
    found = getattr(attacks, attack)(network, x, y, **settings | ({} if attack == "ddn" else {"norm": norm}))
    seconds, gradients = time.monotonic() - started, network.gradients - before
    with torch.no_grad():
        fools = (network(found).argmax(1) != y).numpy()
    return np.where(fools, (found - x).flatten(1).norm(p=norm, dim=1).numpy(), np.inf), gradients, seconds


def of_tfadv(attack: str, model: keras.Model, x: np.ndarray, y: np.ndarray):
    """See `of_library`."""
    started = time.monotonic()
    result = tfadv.evaluate(model, x, y, attack)
    return result.distances, result.cost.gradients, time.monotonic() - started


def measure(name: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Prints two rows for each attack, of the images that are classified correctly."""
    correct = tfadv.evaluate(model, x, y, None).clean_correct
    x, y = x[correct], y[correct].astype("int64")
    network = in_torch(model) if find_spec("adv_lib") else print("adv-lib is not installed")
    print(f"{name}, {len(y)} images\nattack | library | median distance | mean | none found | gradients | seconds")
    for attack, theirs in ATTACKS.items():
        calls = {"tfadv": functools.partial(of_tfadv, attack, model, x, y)}
        if network:
            calls["adv-lib"] = functools.partial(of_library, *theirs, network, x, y)
        turns = [(library, *call()) for _ in range(RUNS) for library, call in calls.items()]
        for library, distances, gradients, _ in turns[-len(calls) :]:
            found, seconds = distances[np.isfinite(distances)], [each[3] for each in turns if each[0] == library]
            row = [attack, library, f"{np.median(distances):.4g}", f"{found.mean():.4g}", f"{len(y) - len(found)}"]
            row += [f"{gradients / len(y):.0f}", f"{np.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"]
            print(" | ".join(row), flush=True)


def autoattack(norm: str, name: str, model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    """Prints two rows for all four parts, and for each alone; the Keras model says whether an image is robust."""
    from autoattack import AutoAttack as Public
    import torch

    eps, x, y, network = SIZES[norm][name], x[:ATTACKED], y[:ATTACKED].astype("int64"), in_torch(model)
    images, labels = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)
    print(f"{name}, {norm}, eps {eps:.4g}, {len(y)} images\nattack | library | robust | passes | seconds | differ")
    for part in (STANDARD, *((part,) for part in STANDARD)):
        started = time.monotonic()
        ours = tfadv.evaluate(model, x, y, AutoAttack(norm=norm, attacks=part), eps)
        seconds, passes = time.monotonic() - started, ours.cost.gradients + ours.cost.forwards
        attack = Public(network, norm=norm.capitalize(), eps=eps, seed=0, device="cpu", verbose=False)
        attack.attacks_to_run, before, started = list(part), network.passes, time.monotonic()
        found = attack.run_standard_evaluation(images, labels, bs=len(y)).numpy().transpose(0, 2, 3, 1)
        took = time.monotonic() - started
        theirs = ours.clean_correct & tfadv.evaluate(model, found, y, None).clean_correct
        print(f"{'+'.join(part)} | tfadv | {ours.robust.sum()} | {passes / len(y):.0f} | {seconds:.0f} |")
        row = f"{theirs.sum()} | {(network.passes - before) / len(y):.0f} | {took:.0f}"
        print(f"{'+'.join(part)} | auto-attack | {row} | {(ours.robust[0] != theirs).sum()}", flush=True)


if __name__ == "__main__":
    options = flags(autoattack=SIZES)
    on_both(functools.partial(autoattack, options.autoattack) if options.autoattack else measure, options)
