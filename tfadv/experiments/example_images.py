"""The artifacts `examples/<model>`: attacked images for the report, and what each recipe's model predicts for them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.fgsm import FGSM
from tfadv.attacks.gradient import compiled_logits
from tfadv.datasets.batches import to_float
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.report.data import Examples, Predictions, choose_examples

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel

CANDIDATES = 512  # test images that the examples are chosen from


class ExampleImages(WholeArtifact):
    """Examples of one model, attacked by FGSM at the largest eps."""

    rebuild = "the same command with --stage=report"

    def __init__(
        self, context: Context, splits: DatasetSplits, variants: Sequence[TrainedModel], reference: str
    ) -> None:
        """`variants`: one model trained by each recipe; `reference`: the recipe whose model is attacked first."""
        self._context, self._splits = context, splits
        self._variants = {trained.recipe.name: trained for trained in variants}
        self._reference = self._variants[reference]
        self.name = f"examples/{self._reference.model}"

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the models."""
        return {"split": self._splits} | {trained.name: trained for trained in self._variants.values()}

    def settings(self) -> dict:
        """The attack's eps."""
        return {
            "eps": max(self._context.config.epsilons),
            "attack": "fgsm",
            "reference": self._reference.recipe.name,
        }

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Attacks the candidates, chooses among them, and records all predictions."""
        eps, attack = max(self._context.config.epsilons), FGSM()
        test = self._splits.images["test"]
        x, y = to_float(test.images[:CANDIDATES]), test.labels[:CANDIDATES]
        with self._reference.loaded() as model:
            adversarial = attack(model, x, y, eps)
            clean, attacked = (np.argmax(compiled_logits(model, images), axis=1) for images in (x, adversarial))
        chosen = choose_examples(y, clean, attacked)
        x, adversarial = tf.gather(x, chosen), tf.gather(adversarial, chosen)
        predictions = {}
        for name, trained in self._variants.items():
            with trained.loaded() as model:
                outputs = [_predict(model, images) for images in (x, attack(model, x, y[chosen], eps))]
            predictions[name] = Predictions(*outputs[0], *outputs[1])
        Examples(
            model=self._reference.model,
            attack=attack.name,
            eps=eps,
            indices=chosen,
            images=x.numpy(),
            labels=y[chosen],
            adversarial=adversarial.numpy(),
            predictions=predictions,
            n_candidates=len(y),
            n_fooled=int(((clean == y) & (attacked != y)).sum()),
        ).save(folder / "examples.npz")

    def read(self) -> Examples:
        """The examples."""
        return Examples.load(self._context.graph.open(self) / "examples.npz")


def _predict(model: Any, images: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(classes int (N,), softmax probabilities of these classes, (N,))."""
    probabilities = tf.nn.softmax(compiled_logits(model, images)).numpy()
    return probabilities.argmax(axis=1), probabilities.max(axis=1)
