"""The artifacts `explanations/<model>/<recipe>`: what a model looks at, and how vulnerable its images are."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from tfadv.datasets.batches import to_float
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.explanation.explain import Explanation, explain
from tfadv.report.gallery import choose_images

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel

IMAGES = 256  # test images whose vulnerability is measured
SHOWN = 3


class ExplanationArtifact(WholeArtifact):
    """The explanation of the first test images, at the largest eps."""

    rebuild = "the same command with --stage=explain"

    def __init__(self, context: Context, splits: DatasetSplits, trained: TrainedModel) -> None:
        """`trained`: the model to explain."""
        self._context, self._splits, self._trained = context, splits, trained
        self.name = f"explanations/{trained.folder}"

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the model."""
        return {"split": self._splits, "weights": self._trained}

    def settings(self) -> dict:
        """The eps and the images."""
        return {"eps": max(self._context.config.epsilons), "images": IMAGES, "shown": SHOWN}

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> str:
        """Explains the images."""
        test = self._splits.images["test"]
        x, y = to_float(test.images[:IMAGES]), test.labels[:IMAGES]
        with self._trained.loaded() as model:
            shown = choose_images(y, SHOWN)
            found = explain(model, x, y, max(self._context.config.epsilons), shown=shown, resume=resume)
        found.save(folder / "explanation.npz")
        return "medians: " + ", ".join(f"{name} {value:.3g}" for name, value in found.vulnerability.medians().items())

    def read(self) -> Explanation:
        """The explanation."""
        return Explanation.load(self._context.graph.open(self) / "explanation.npz")
