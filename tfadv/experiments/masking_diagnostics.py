"""The artifacts `diagnostics/<model>/<recipe>`: whether a model's gradients are masked."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import TYPE_CHECKING, Any

from tfadv.datasets.batches import to_float
from tfadv.evaluation.checks import Check, run_checks
from tfadv.evaluation.evaluator import Execution
from tfadv.evaluation.masking import DiagnosticSettings, collect_diagnostics
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.store.files import digest, write_json

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel

LOG = logging.getLogger(__name__)
IMAGES = 128  # see `collect_diagnostics`


class MaskingDiagnostics(WholeArtifact):
    """What `collect_diagnostics` finds on the first test images, at the largest eps."""

    rebuild = "the same command with --stage=evaluate"

    def __init__(
        self, context: Context, splits: DatasetSplits, trained: TrainedModel, surrogate: TrainedModel, n: int
    ) -> None:
        """`trained`: the model under test; `surrogate`: another one; `n`: number of images at most."""
        self._context, self._splits, self._trained = context, splits, trained
        self._n = min(IMAGES, n)
        self.name = f"diagnostics/{trained.folder}"
        self._surrogate = None if surrogate.name == trained.name else surrogate

    def inputs(self) -> dict[str, Artifact]:
        """The splits, the model, and the surrogate unless it is the model itself."""
        inputs: dict[str, Artifact] = {"split": self._splits, "weights": self._trained}
        return inputs | ({"surrogate": self._surrogate} if self._surrogate else {})

    def settings(self) -> dict:
        """The eps and the images."""
        config = self._context.config
        return {
            "eps": max(config.epsilons),
            "images": self._n,
            "seed": config.seed,
            "batch_size": config.images_at_once,
        }

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Runs the diagnostics."""
        config, test = self._context.config, self._splits.images["test"]
        x, y, eps = to_float(test.images[: self._n]), test.labels[: self._n], max(config.epsilons)
        options: dict[str, Any] = dict(
            settings=DiagnosticSettings(batch_size=config.images_at_once, seed=config.seed),
            execution=Execution(self._context.devices, resume=resume),
        )
        with self._trained.loaded() as model:
            if self._surrogate:
                with self._surrogate.loaded() as surrogate:
                    diagnostics = collect_diagnostics(model, x, y, eps, surrogate=surrogate, **options)
            else:
                diagnostics = collect_diagnostics(model, x, y, eps, **options)
        write_json(folder / "diagnostics.json", diagnostics)
        outcomes = {
            name: {key: value for key, value in outcome.items() if key != "seconds"}
            for name, outcome in diagnostics["attacks"].items()
        }
        manifest["content"] = digest(diagnostics | {"attacks": outcomes})
        for check in run_checks(diagnostics):
            if check.passed is False:
                name = self.name.removeprefix("diagnostics/")
                LOG.warning("%s is suspicious (%s): %s", name, check.name, check.sentence)

    def checks(self) -> list[Check]:
        """The results of the checks."""
        return run_checks(json.loads((self._context.graph.open(self) / "diagnostics.json").read_text()))
