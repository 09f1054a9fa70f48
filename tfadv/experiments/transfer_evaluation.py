"""The artifacts `transfers/<model>/<recipe>`: a row of the transfer matrix."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from tfadv.attacks.pgd import PGD
from tfadv.datasets.batches import to_float
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.evaluator import Execution, FixedImages, evaluate
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.store.files import write_json

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel


class TransferRow(WholeArtifact):
    """How many of the images that PGD attacks on one model all the models classify correctly."""

    rebuild = "the same command with --stage=evaluate"

    def __init__(
        self, context: Context, splits: DatasetSplits, source: TrainedModel, targets: list[TrainedModel], n: int
    ) -> None:
        """`source`: the attacked model; `targets`: the models that classify its images; `n`: number of images."""
        self._context, self._splits, self._source, self._targets, self._n = context, splits, source, targets, n
        self.name = f"transfers/{source.folder}"
        # All its steps, because continuing after the decision boundary is crossed transfers better.
        self._attack = PGD(early_stop=False)

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the models."""
        return {"split": self._splits} | {target.name: target for target in self._targets}

    def settings(self) -> dict:
        """The attack and the images."""
        config = self._context.config
        return {
            "source": self._source.name,
            "attack": self._attack.name,
            "attack_settings": self._attack.settings(),
            "eps": max(config.epsilons),
            "images": self._n,
            "seed": config.seed,
            "batch_size": config.images_at_once,
        }

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Attacks the images and evaluates all models on them."""
        config, test = self._context.config, self._splits.images["test"]
        eps, x, labels = max(config.epsilons), to_float(test.images[: self._n]), test.labels[: self._n]
        common: dict[str, Any] = {"seed": config.seed, "batch_size": config.images_at_once}
        with self._source.loaded() as model:
            attack = OnAllDevices(self._attack, self._context.devices)
            adversarial = FixedImages(attack(model, x, labels, [eps], resume=resume, **common))
        correct = {}
        for target in self._targets:
            with target.loaded() as model:
                result = evaluate(
                    model, x, labels, adversarial, eps, execution=Execution(self._context.devices), **common
                )
            correct[f"{target.model}/{target.recipe.name}"] = int(result.robust.sum())
        write_json(folder / "transfer.json", {"n": len(labels), "eps": eps, "correct": correct})

    def read(self) -> dict:
        """Keys "n", "eps" and "correct", see `tfadv.report.data.TransferRow`."""
        return json.loads((self._context.graph.open(self) / "transfer.json").read_text())
