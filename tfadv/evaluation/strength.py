"""Robustness under any attack of `tfadv.attacks`: which images withstand it, how it was set and what it cost."""

import functools
import inspect
import time

import numpy as np
import tensorflow as tf

from tfadv import attacks
from tfadv.attacks.gradient import compiled_logits, xla
from tfadv.datasets.batches import to_float

_NOT_SETTINGS = {"model", "x", "y", "eps", "seed", "clip", "cost", "batch_size", "progress"}


def settings(name):
    """dict of how the attack of that name is set: its keyword arguments, JSON.

    Raises:
      UserError: no such attack.
    """
    attack = attacks.get(name)
    parameters = inspect.signature(attack).parameters.values()
    chosen = {p.name: p.default for p in parameters if p.name not in _NOT_SETTINGS}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


def predicted(model, images, batch_size):
    """int64 (N,): the classes that a model predicts for float32 images (N, H, W, C)."""
    found = []
    for start in range(0, len(images), batch_size):
        # Every batch is full (it wraps around), so that XLA compiles one shape only.
        rows = np.arange(start, start + batch_size) % len(images)
        logits = compiled_logits(model, tf.gather(images, rows), jit_compile=xla())
        found.append(np.argmax(logits, axis=1)[: len(images) - start])
    return np.concatenate(found)


def withstood(model, images, labels, name, epsilons, *, batch_size, seed, progress=None):
    """Attacks images and looks which of them the model still gets right; wrong already counts as wrong.

    Args:
      model: a Keras model that returns logits.
      images: uint8 (N, H, W, C).
      labels: int64 (N,).
      name: str, a key of `tfadv.attacks.ATTACKS`.
      epsilons: E floats.
      batch_size: int, images at once.
      seed: int, of the attack.
      progress: called with numbers of images done, which add up to N, or None.

    Returns:
      (bool (E, N), dict of what it cost: "gradients" and "forwards" (images through the model), "seconds",
      "instead" (losses that stood in for others, see `tfadv.attacks.losses.used`), "unbroken" (AutoAttack's parts)).
    """
    attack, cost, started = attacks.get(name), attacks.Cost(), time.monotonic()
    common = dict(seed=seed, cost=cost)
    if "batch_size" in inspect.signature(attack).parameters:  # it fills its batches itself
        common |= dict(batch_size=batch_size, progress=progress)
        made = [attack(model, to_float(images), labels, list(epsilons), **common)]
    else:
        made = []
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            made.append(attack(model, to_float(images[rows]), labels[rows], list(epsilons), **common))
            if progress:
                progress(len(labels[rows]))
    seconds = time.monotonic() - started
    adversarial = tf.concat(made, axis=1)
    clean = predicted(model, to_float(images), batch_size) == labels
    right = np.stack([predicted(model, x, batch_size) == labels for x in adversarial])
    paid = {"gradients": cost.gradients, "forwards": cost.forwards, "seconds": round(seconds, 2)}
    return clean & right, paid | {"instead": cost.instead, "unbroken": cost.unbroken}


def add(costs):
    """The sum of what parts cost, as `withstood` returns it."""
    total = {key: sum(c[key] for c in costs) for key in ("gradients", "forwards", "seconds")}
    total["instead"] = functools.reduce(dict.__or__, (c["instead"] for c in costs), {})
    names = costs[0]["unbroken"]
    total["unbroken"] = {name: np.sum([c["unbroken"][name] for c in costs], axis=0).tolist() for name in names}
    return total
