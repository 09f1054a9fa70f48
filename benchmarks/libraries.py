"""What all libraries that are measured share: their table, the images, and the base classes `Library`, `KerasLibrary`.

Each library runs in a process of its own, and imports what it needs when its
class is instantiated.  All attack the same network with the same weights, the same images
and labels, and return float32 adversarial images (E, N, H, W, C) in NumPy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10


class Entry(NamedTuple):
    """An entry of `LIBRARIES`: the class, as "module:class", and the module without which it cannot run."""

    location: str
    required_module: str

    def load(self) -> type[Library]:
        """The class."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(module), name)


LIBRARIES = {
    "tfadv": Entry("benchmarks.tfadv_library:Tfadv", "tensorflow"),
    "torchattacks": Entry("benchmarks.other_libraries:Torchattacks", "torchattacks"),
    "CleverHans": Entry("benchmarks.other_libraries:CleverHans", "cleverhans"),
    "Foolbox": Entry("benchmarks.other_libraries:Foolbox", "foolbox"),
    "ART": Entry("benchmarks.other_libraries:Art", "art"),
}


def installed() -> list[str]:
    """The names of the libraries that can run here, tfadv first."""
    return [name for name, entry in LIBRARIES.items() if importlib.util.find_spec(entry.required_module)]


def images(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random patches with noise, always the same: float32 (N, size, size, 3) in [0, 1] and labels int64 (N,)."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0.1, 0.9, (n, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    x = np.clip(patches + rng.normal(0, 0.05, patches.shape), 0, 1).astype("float32")
    return x, rng.integers(0, CLASSES, n)


class Library:
    """A library under measurement.  The parent process calls its public methods and times them."""

    distribution: str  # its name on PyPI
    size: int  # pixels per side
    x: np.ndarray
    y: np.ndarray

    def version(self) -> str:
        """The installed version."""
        return importlib.metadata.version(self.distribution)

    def prepare(self, model: str, size: int, n: int, weights: str) -> None:
        """Builds a model with the weights of a file, and keeps n images in memory.

        Args:
          model: a name in `tfadv.models.MODELS`.
          size: pixels per side.
          n: number of images, which the attacks take as one batch.
          weights: path of a .npz file: Keras variable path → array.
        """
        self.size, (self.x, self.y) = size, images(n, size)
        with np.load(weights) as arrays:
            self.build(model, {path: arrays[path] for path in arrays.files})

    def build(self, model: str, weights: dict[str, np.ndarray]) -> None:
        """Builds the model."""
        raise NotImplementedError

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """FGSM at each eps: float32 (E, N, H, W, C)."""
        raise NotImplementedError

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """PGD in L-infinity, steps of eps / 4 from the image itself: float32 (1, N, H, W, C)."""
        raise NotImplementedError

    def peak_memory(self) -> int:
        """The most memory that this process has used, in bytes."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class KerasLibrary(Library):
    """A library that attacks the Keras model."""

    model: Any

    def __init__(self) -> None:
        """Enables oneDNN, for all libraries alike."""
        import tfadv  # noqa: F401

    def build(self, model: str, weights: dict[str, np.ndarray]) -> None:
        """See `Library.build`."""
        import tensorflow as tf

        from tfadv import models

        self.model = models.build(model, (self.size, self.size, 3), CLASSES)
        for variable in self.model.weights:
            variable.assign(weights[variable.path])
        self.tensors = tf.constant(self.x), tf.constant(self.y)
