"""The artifacts `evaluations/<model>/<recipe>`: accuracy clean, under FGSM, and on the surrogate's stored images."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfadv.attacks.fgsm import FGSM
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import Execution, StoredPerturbations, evaluate
from tfadv.evaluation.records import Record, fgsm_records
from tfadv.evaluation.result import Result, concatenate
from tfadv.experiments.graph import Artifact, PartedArtifact
from tfadv.experiments.result_files import content_hash, in_percent, load_result, save_result, warn_of_upper_bound

if TYPE_CHECKING:
    from tfadv.experiments.context import Context
    from tfadv.experiments.stored_samples import StoredSamples
    from tfadv.experiments.trained_model import TrainedModel

PREFIXES = ("whitebox_", "transfer_")
IMAGES_PER_PART = 256  # the most that a killed run has to evaluate again


class FgsmEvaluation(PartedArtifact):
    """Results on all test images: white-box FGSM, and transfer from the surrogate."""

    rebuild = "the same command with --stage=evaluate"

    def __init__(self, context: Context, trained: TrainedModel, samples: StoredSamples) -> None:
        """`trained`: the model under test; `samples`: the surrogate's."""
        self._context, self._trained, self._samples = context, trained, samples
        self.name = f"evaluations/{trained.folder}"

    def inputs(self) -> dict[str, Artifact]:
        """The model and the surrogate's samples."""
        return {"weights": self._trained, "samples": self._samples}

    def settings(self) -> dict:
        """The sizes of eps."""
        return {"epsilons": list(self._context.config.epsilons), "attack": "fgsm"}

    def pieces(self) -> list[range]:
        """Ranges of test images."""
        n = self._samples.sizes["test"]
        return [range(i, min(i + IMAGES_PER_PART, n)) for i in range(0, n, IMAGES_PER_PART)]

    def build_part(self, folder: pathlib.Path, piece: range, progress: Callable[[int], Any], resume: Any) -> None:
        """Evaluates some of the test images."""
        config = self._context.config
        samples = self._samples.test.select(slice(piece.start, piece.stop))
        if samples.perturbations is None:
            raise UserError("the surrogate's samples hold no perturbations.")
        common: dict[str, Any] = {"eps": config.epsilons, "batch_size": config.images_at_once}
        with self._trained.loaded() as model:
            execution = Execution(devices=self._context.devices, progress=progress)
            whitebox = evaluate(model, samples.images, samples.labels, FGSM(), execution=execution, **common)
            stored = StoredPerturbations(samples.perturbations, whitebox.clean_correct)
            execution = Execution(devices=self._context.devices)
            transfer = evaluate(model, samples.images, samples.labels, stored, execution=execution, **common)
        for prefix, result in zip(PREFIXES, (whitebox, transfer)):
            save_result(folder, result, prefix)

    def join(self, folder: pathlib.Path, manifest: dict, parts: Sequence[pathlib.Path]) -> str:
        """Puts the results of all images together."""
        results = {prefix: concatenate([load_result(part, prefix) for part in parts]) for prefix in PREFIXES}
        for prefix, result in results.items():
            save_result(folder, result, prefix)
        manifest["content"] = content_hash(*results.values())
        warn_of_upper_bound(self.attacked, results[PREFIXES[0]])
        whitebox, stored = (in_percent(results[prefix].robust) for prefix in PREFIXES)
        clean = in_percent([results[PREFIXES[0]].clean_correct])
        return f"clean {clean}, FGSM {whitebox}, stored images {stored}"

    def records(self) -> list[Record]:
        """Clean, white-box at each eps, transfer at each eps."""
        return self._records(self._context.graph.open(self))

    @property
    def attacked(self) -> str:
        """ "model/recipe under attack"."""
        return f"{self._trained.variant} under FGSM"

    def result(self) -> Result:
        """The result under white-box FGSM."""
        return load_result(self._context.graph.open(self), PREFIXES[0])

    def _records(self, folder: pathlib.Path) -> list[Record]:
        whitebox, transfer = (load_result(folder, prefix) for prefix in PREFIXES)
        surrogate = self._samples.surrogate
        return fgsm_records(
            self._trained.subject,
            self._context.config.epsilons,
            whitebox.clean_correct,
            whitebox.robust,
            transfer.robust,
            f"{surrogate.model}/{surrogate.recipe.name}",
        )
