"""The images that a report shows: clean and attacked, with what each model predicts for them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class AttackedImages:
    """The G images of a gallery, attacked on one model at E sizes of perturbation, and its predictions.

    Predictions have one row per size of perturbation, the first one for clean images.

    Attributes:
      adversarial: uint8 (E, G, H, W, C).
      classes: int (1 + E, G), predicted classes.
      confidences: float32 (1 + E, G), softmax probabilities of these classes, in [0, 1].
      confusion: int (1 + E, K, K), numbers of test images by true class and predicted class.
      margins: float32 (1 + E, N), logit of the true class less the largest other one, of all these images.
    """

    adversarial: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    confusion: np.ndarray
    margins: np.ndarray

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed npz file."""
        with open(path, "wb") as file:
            np.savez_compressed(file, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, path: pathlib.Path) -> AttackedImages:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(**{field.name: file[field.name] for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Gallery:
    """G test images and the attacks on them.

    Attributes:
      attack: name of the attack.
      epsilons: sizes of the perturbation, ascending.
      images: uint8 (G, H, W, C).
      labels: int (G,), true classes.
      models: "model/defense" → `AttackedImages`.
    """

    attack: str
    epsilons: tuple[float, ...]
    images: np.ndarray
    labels: np.ndarray
    models: Mapping[str, AttackedImages]


def choose_images(labels: np.ndarray, count: int) -> np.ndarray:
    """Chooses images by class: the first one of each class, then the second one of each class, and so on.

    Args:
      labels: int (N,), true classes.
      count: the number of images to choose.

    Returns:
      int (min(count, N),), positions in `labels`, ordered by class.
    """
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    rank = np.arange(len(order)) - first  # of an image within its class
    chosen = order[np.lexsort((order, rank))][:count]
    return np.asarray(chosen[np.lexsort((chosen, labels[chosen]))])


def fooled_first(gallery: Gallery, count: int) -> np.ndarray:
    """Chooses images by class as `choose_images` does, and those before others that the attack fools on any model.

    Args:
      gallery: the images and the attacks.
      count: the number of images to choose.

    Returns:
      int (min(count, G),), positions of images, ascending.
    """
    fooled = np.zeros(len(gallery.labels), bool)
    for attacked in gallery.models.values():
        fooled |= (attacked.classes[0] == gallery.labels) & (attacked.classes[1:] != gallery.labels).any(axis=0)
    chosen: list[int] = []
    for positions in (np.flatnonzero(fooled), np.flatnonzero(~fooled)):
        chosen += positions[choose_images(gallery.labels[positions], count - len(chosen))].tolist()
    return np.sort(np.array(chosen, int))
