"""A session: the artifacts of one work folder, wired together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from tfadv import attacks, specs
from tfadv.attacks.base import Attack
from tfadv.choices import COMPARE
from tfadv.config import Config
from tfadv.datasets.storage import Storage
from tfadv.errors import UserError
from tfadv.evaluation.records import Record, attack_records, worst_case_records
from tfadv.evaluation.result import worst_case
from tfadv.experiments import EXPERIMENTS, RECIPES
from tfadv.experiments.architectures import Architecture, OwnModel, RegisteredModel
from tfadv.experiments.attack_evaluation import AttackEvaluation
from tfadv.experiments.context import Context
from tfadv.experiments.dataset_splits import DatasetSplits
from tfadv.experiments.explanation_artifact import ExplanationArtifact
from tfadv.experiments.fgsm_evaluation import FgsmEvaluation
from tfadv.experiments.gallery_images import GalleryImages
from tfadv.experiments.graph import Graph
from tfadv.experiments.masking_diagnostics import MaskingDiagnostics
from tfadv.experiments.model_pool import ModelPool
from tfadv.experiments.recipe import SCRATCH, Recipe
from tfadv.experiments.stored_samples import DrawnSamples, StoredSamples
from tfadv.experiments.trained_model import TrainedModel
from tfadv.experiments.transfer_evaluation import TransferRow
from tfadv.models import MODELS, own
from tfadv.runtime.devices import Devices
from tfadv.store.files import write_json
from tfadv.store.shared_disk import check_shared
from tfadv.store.workdir import Workdir

AFFECTS_RESULTS = False


class Session:
    """The artifacts of one work folder, wired together.

    Attributes:
      config: the settings.
      experiment: the recipes.
      workdir: the folder.
      devices: where training and attacks run.
      graph: builds artifacts.
    """

    def __init__(self, config: Config, workdir: Workdir) -> None:
        """Initializes the devices.

        Raises:
          UserError: there are no such devices, or they can't share a batch equally.
        """
        self.config, self.workdir = config, workdir
        compares = config.stage == COMPARE
        self.experiment = config.compared_experiment if compares else config.selected_experiment
        self.devices = Devices(config.distribute, config.virtual_devices)
        self.devices.check_batch(config.batch_size, config.batch_parts)
        if config.batch_parts > 1 and config.sync_batchnorm and self.devices.replicas > 1:
            raise UserError("--batch_parts and --sync_batchnorm can't be combined: each part has its own statistics.")
        if any(recipe.samples == "ensemble" for recipe in self.experiment.recipes):
            if config.images_at_once % (2 * self.devices.replicas):
                raise UserError(
                    "ensemble needs an even number of images per device and part: "
                    f"change --batch_size={config.batch_size}."
                )
        workdir.barrier = functools.partial(self.devices.sum_over_workers, 1)
        if self.devices.workers > 1:
            check_shared(workdir, self.devices.sum_over_workers)
        self.graph = Graph(workdir, config.shard_of())
        storage = Storage(config.in_memory, workdir.root)
        self._context = Context(config, workdir, self.devices, self.graph, ModelPool(), storage)
        self._known = config.selected_experiment
        for recipe in self._earlier_recipes():
            with contextlib.suppress(ValueError):  # starts from a recipe that is not there any more
                self._known = self._known.with_recipes((recipe,))
        self._trained: dict[tuple[str, str], TrainedModel] = {}
        self._architectures: dict[str, Architecture] = {}

    def _earlier_recipes(self) -> list[Recipe]:
        """Recipes that earlier commands trained in this work folder and this one does not name."""
        names, found = {recipe.name for recipe in self._known.recipes}, []
        for path in sorted((self.workdir.root / "models").glob("*/[!.]*")):
            try:
                manifest = self.workdir.manifest(path.relative_to(self.workdir.root).as_posix()) or {}
                name = manifest["inputs"]["recipe"]
                (spec,) = specs.split_specs(name, RECIPES)
                recipe = RECIPES[spec[0]].with_settings(spec[1])
            except (KeyError, ValueError, UserError):  # damaged, or of a plugin that is not loaded
                continue
            if name not in names:
                names.add(name)
                found.append(recipe)
        return sorted(found, key=lambda recipe: recipe.round)  # each round after the one that it starts from

    # ---- artifacts --------------------------------------------------------------------------------------

    @functools.cached_property
    def splits(self) -> DatasetSplits:
        """The splits of the data set."""
        return DatasetSplits(self._context)

    @property
    def samples(self) -> StoredSamples:
        """The stored samples of the first surrogate, which the evaluations use."""
        return self.ensemble_samples[0]

    @functools.cached_property
    def ensemble_samples(self) -> tuple[StoredSamples, ...]:
        """The stored samples of all surrogates."""
        surrogates = [self.trained(model, self.experiment.reference) for model in self.config.surrogate]
        folders = ["surrogate", *(f"surrogate_{trained.model}" for trained in surrogates[1:])]
        return tuple(
            StoredSamples(self._context, self.splits, trained, folder, "retrain" if number else "generate")
            for number, (trained, folder) in enumerate(zip(surrogates, folders))
        )

    @property
    def surrogate(self) -> TrainedModel:
        """The model whose adversarial images the evaluations use: the first surrogate."""
        return self.trained(self.config.surrogate[0], self.experiment.reference)

    def _architecture(self, model: str) -> Architecture:
        if model not in self._architectures:
            kind = OwnModel if own.is_own(model) else RegisteredModel
            self._architectures[model] = kind(model, self.config, self.splits)
        return self._architectures[model]

    def trained(self, model: str, name: str) -> TrainedModel:
        """A model of `--models` or of the table, trained by the recipe of that name."""
        if (model, name) not in self._trained:
            recipe = self._known.recipe(name)
            start_name = recipe.start
            replaceable = start_name != SCRATCH and name != self.experiment.reference and recipe.samples != "own"
            if self.config.retrain_from and replaceable:
                start_name = self.config.retrain_from
            start = None if start_name == SCRATCH else self.trained(model, start_name)
            self._trained[model, name] = TrainedModel(
                self._context,
                self.splits,
                self._architecture(model),
                recipe,
                start=start,
                samples=self._samples_for(recipe, start),
            )
        return self._trained[model, name]

    def _samples_for(self, recipe: Recipe, start: TrainedModel | None) -> tuple[StoredSamples, ...]:
        """The stored samples that a recipe trains on; empty where it trains on clean images."""
        if recipe.samples == "ensemble":
            return self.ensemble_samples
        if recipe.samples == "surrogate":
            return (self.samples,)
        if recipe.samples != "own":
            return ()
        assert start is not None  # `Recipe` checks it
        if recipe.round and self.config.round_size:
            folder = f"rounds/{specs.folder_name(start.model)}/{specs.folder_name(recipe.name)}"
            return (DrawnSamples(self._context, self.splits, start, folder, recipe.round),)
        if start is self.surrogate:
            return (self.samples,)
        return (StoredSamples(self._context, self.splits, start, f"rounds/{start.folder}", "retrain"),)

    @property
    def variants(self) -> list[TrainedModel]:
        """Each model of `--models` trained by each recipe that is evaluated.

        Recipes of `--defenses` train those of `--defense_models` only.
        """
        declared = {recipe.name for recipe in EXPERIMENTS[self.config.experiment].recipes}
        defended = self.config.defense_models or self.config.models
        return [
            self.trained(model, recipe.name)
            for model in self.config.models
            for recipe in self.experiment.recipes
            if recipe.evaluated and (recipe.name in declared or model in defended)
        ]

    @property
    def attacks(self) -> list[Attack]:
        """The attacks of `--attacks`, each once even where the settings given are the defaults."""
        built = [specs.build(name, settings, attacks.ATTACKS) for name, settings in self.config.attack_specs]
        return list({attack.label: attack for attack in built}.values())

    @property
    def eval_size(self) -> int:
        """The number of test images for `--attacks`."""
        n = self.splits.sizes["test"]
        return min(self.config.eval_size or n, n)

    def fgsm_evaluation(self, trained: TrainedModel) -> FgsmEvaluation:
        """Accuracy of a model clean, under FGSM and on the surrogate's images."""
        return FgsmEvaluation(self._context, trained, self.samples)

    def attack_evaluation(self, trained: TrainedModel, attack: Attack, n: int | None = None) -> AttackEvaluation:
        """Accuracy of a model under an attack on the first n test images; None: as many as the settings ask for."""
        n = n or self.config.attacked_images(attack.name, self.splits.sizes["test"])
        return AttackEvaluation(self._context, self.splits, trained, attack, n)

    def transfer_row(self, trained: TrainedModel, n: int | None = None) -> TransferRow:
        """Accuracy of all models on images attacked on one, the first n; None: `eval_size`."""
        return TransferRow(self._context, self.splits, trained, self.variants, n or self.eval_size)

    def diagnostics(self, trained: TrainedModel, n: int | None = None) -> MaskingDiagnostics:
        """Whether the gradients of a model are masked; n as in `transfer_row`."""
        return MaskingDiagnostics(self._context, self.splits, trained, self.surrogate, n or self.eval_size)

    def explanation(self, trained: TrainedModel) -> ExplanationArtifact:
        """What a model looks at, and how vulnerable its images are."""
        return ExplanationArtifact(self._context, self.splits, trained)

    def gallery(self, trained: TrainedModel) -> GalleryImages:
        """Attacked images of a model, to look at."""
        return GalleryImages(self._context, self.splits, trained)

    # ---- results ----------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Writes results.json with the results of all models and recipes that are up to date."""
        if self.workdir.follower or self.config.shard:  # one process writes
            return
        names = dict.fromkeys((*MODELS, *self.config.models, *self.config.surrogate))
        models = [self.trained(model, recipe.name) for model in names for recipe in self._known.recipes]
        records = [record for trained in models for record in self.records(trained)]
        path = self.workdir.root / "results.json"
        if records or path.exists():
            write_json(path, [record.to_dict() for record in records])

    def records(self, trained: TrainedModel) -> list[Record]:
        """The results of one model that are up to date; empty where it was not evaluated."""
        evaluation = self.fgsm_evaluation(trained)
        if self.graph.current(evaluation) is None:
            return []
        return evaluation.records() + self._attack_records(trained, evaluation)

    def _attack_records(self, trained: TrainedModel, fgsm: FgsmEvaluation) -> list[Record]:
        """The records of all attacks that a model was evaluated under, and of the worst case over them."""
        epsilons, subject = self.config.epsilons, trained.subject
        evaluations = list(self._attack_evaluations(trained))
        results = [evaluation.result() for evaluation in evaluations]
        records = []
        for evaluation, result in zip(evaluations, results):
            label, cost = evaluation.attack.label, result.cost.to_dict()
            records += attack_records(
                subject, epsilons, result.robust, result.attack or "", result.settings, cost, label
            )
        if len({result.n for result in results}) != 1:  # there is no worst case over different numbers of images
            return records
        worst = worst_case([fgsm.result().first(results[0].n), *results])
        labels = dict.fromkeys(["fgsm", *(evaluation.attack.label for evaluation in evaluations)])
        return records + worst_case_records(subject, epsilons, worst.robust, list(labels))

    def _attack_evaluations(self, trained: TrainedModel) -> Iterator[AttackEvaluation]:
        """Those on the disk that are up to date, in the order of the table of attacks."""
        folder, order = AttackEvaluation.folder(trained), list(attacks.ATTACKS)
        candidates = []
        for path in (self.workdir.root / folder).glob("[!.]*"):
            try:
                inputs = (self.workdir.manifest(f"{folder}/{path.name}") or {})["inputs"]
                evaluation = self.attack_evaluation(trained, attacks.parse(inputs["attack"]), inputs["images"])
            except (KeyError, UserError):  # damaged, or of a plugin that is not loaded
                continue
            candidates.append((order.index(evaluation.attack.name), evaluation.attack.label, evaluation))
        for _, _, evaluation in sorted(candidates, key=lambda c: c[:2]):
            if self.graph.current(evaluation) is not None:
                yield evaluation
