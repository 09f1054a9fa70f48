"""The artifacts `attacks/<model>/<recipe>/<attack>`: which test images are robust under an attack of `--attacks`."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfadv.evaluation.evaluator import Execution, evaluate
from tfadv.evaluation.result import Result, concatenate
from tfadv.experiments.graph import Artifact, PartedArtifact
from tfadv.experiments.result_files import content_hash, in_percent, load_result, save_result, warn_of_upper_bound
from tfadv.specs import folder_name

if TYPE_CHECKING:
    from tfadv.attacks.base import Attack
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.trained_model import TrainedModel

IMAGES_PER_PART = 512  # the few images that stay robust have to fill a batch


class AttackEvaluation(PartedArtifact):
    """The result of one attack on the first `--eval_size` test images."""

    rebuild = "the same command with --stage=evaluate"

    def __init__(self, context: Context, splits: DatasetSplits, trained: TrainedModel, attack: Attack, n: int) -> None:
        """`trained`: the model under test; `n`: number of images."""
        self._context, self._splits, self._trained, self.attack, self.n = context, splits, trained, attack, n
        self.name = f"{self.folder(trained)}/{folder_name(attack.label)}"

    @staticmethod
    def folder(trained: TrainedModel) -> str:
        """Where the evaluations of a model are, a path in the work folder."""
        return f"attacks/{trained.folder}"

    def inputs(self) -> dict[str, Artifact]:
        """The splits and the model."""
        return {"split": self._splits, "weights": self._trained}

    def settings(self) -> dict:
        """The attack, its settings, the sizes of eps and the images."""
        config = self._context.config
        return {
            "attack": self.attack.label,
            "attack_settings": self.attack.settings(),
            "epsilons": list(config.epsilons),
            "images": self.n,
            "seed": config.seed,
            "batch_size": config.images_at_once,
        }

    def code(self) -> tuple:
        """This module and that of the attack."""
        return (type(self).__module__, type(self.attack).__module__)

    def pieces(self) -> list[range]:
        """Ranges of test images."""
        return [range(i, min(i + IMAGES_PER_PART, self.n)) for i in range(0, self.n, IMAGES_PER_PART)]

    def build_part(self, folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: Any) -> None:
        """Attacks some of the test images."""
        config, test = self._context.config, self._splits.images["test"]
        rows = slice(piece.start, piece.stop)
        with self._trained.loaded() as model:
            result = evaluate(
                model,
                test.images[rows],
                test.labels[rows],
                self.attack,
                config.epsilons,
                batch_size=config.images_at_once,
                seed=config.seed,
                first=piece.start,
                execution=Execution(self._context.devices, progress=progress, resume=resume),
            )
        save_result(folder, result)

    def join(self, folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        """Puts the results of all images together."""
        result = concatenate([load_result(part) for part in parts])
        save_result(folder, result)
        manifest["content"] = content_hash(result)
        warn_of_upper_bound(self.attacked, result)
        return in_percent(result.robust)

    @property
    def attacked(self) -> str:
        """ "model/recipe under attack"."""
        return f"{self._trained.variant} under {self.attack.label}"

    def result(self) -> Result:
        """The result of all images."""
        return load_result(self._context.graph.open(self))
