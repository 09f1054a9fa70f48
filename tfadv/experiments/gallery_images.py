"""The artifacts `gallery/<model>/<recipe>`: attacked images for the report, and what the model predicts for them."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.fgsm import FGSM
from tfadv.attacks.gradient import compiled_logits
from tfadv.datasets.batches import to_float
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.report.gallery import AttackedImages, choose_images

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel

IMAGES = 20
MOST_IMAGES = 2048  # of the test split: the confusion matrices count them, and the gallery's are chosen from them


class GalleryImages(WholeArtifact):
    """Test images attacked by FGSM on one model: some to look at, the predictions of all."""

    attack = FGSM()
    rebuild = "the same command with --stage=report"

    def __init__(self, context: Context, splits: DatasetSplits, trained: TrainedModel) -> None:
        """`trained`: the model."""
        self._context, self._splits, self._trained = context, splits, trained
        self.name = f"gallery/{trained.folder}"

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the model."""
        return {"split": self._splits, "weights": self._trained}

    def settings(self) -> dict:
        """The attack and its eps."""
        return {"epsilons": sorted(self._context.config.epsilons), "attack": self.attack.label}

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Attacks the images and records all predictions."""
        test, epsilons = self._splits.images["test"], sorted(self._context.config.epsilons)
        labels = test.labels[:MOST_IMAGES]
        shown = choose_images(labels, IMAGES)
        adversarial = np.empty((len(epsilons), len(shown), *test.images.shape[1:]), np.uint8)
        found = []
        with self._trained.loaded() as model:
            for start in range(0, len(labels), self._context.config.images_at_once):
                rows = slice(start, min(start + self._context.config.images_at_once, len(labels)))
                x = to_float(test.images[rows])
                attacked = tf.convert_to_tensor(self.attack(model, x, labels[rows], epsilons))
                stacked = tf.concat([x[None], attacked], axis=0)
                found.append(tf.stack([compiled_logits(model, images) for images in stacked]))
                own = np.flatnonzero((shown >= start) & (shown < rows.stop))
                adversarial[:, own] = np.round(255 * attacked.numpy()[:, shown[own] - start])
        logits = tf.concat(found, axis=1)
        probabilities, margins = tf.nn.softmax(logits).numpy(), [-losses.margin(row, labels) for row in logits]
        classes = probabilities.argmax(axis=2)
        AttackedImages(
            adversarial=adversarial,
            classes=classes[:, shown],
            confidences=probabilities.max(axis=2)[:, shown],
            confusion=np.stack([_confusion(labels, row, probabilities.shape[2]) for row in classes]),
            margins=np.stack(margins),
        ).save(folder / "gallery.npz")

    def read(self) -> AttackedImages:
        """The attacked images."""
        return AttackedImages.load(self._context.graph.open(self) / "gallery.npz")


def shown_images(splits: DatasetSplits) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (G, H, W, C), labels int (G,)) of the gallery, the same for all models."""
    test = splits.images["test"]
    shown = choose_images(test.labels[:MOST_IMAGES], IMAGES)
    return test.images[shown], test.labels[shown]


def _confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int (K, K), numbers of images by true class and predicted class."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
