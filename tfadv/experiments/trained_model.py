"""The artifacts `models/<model>/<recipe>`: a model trained by a recipe."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras

from tfadv.datasets.batches import MixedSamples, Samples
from tfadv.datasets.splits import undersample
from tfadv.datasets.storage import concatenated
from tfadv.errors import UserError
from tfadv.evaluation.records import Subject
from tfadv.experiments.graph import Artifact, WholeArtifact
from tfadv.experiments.recipe import SCRATCH
from tfadv.experiments.training_plan import TrainingPlan
from tfadv.models import files
from tfadv.models.logits import original
from tfadv.objectives import OBJECTIVES
from tfadv.report.data import Training, with_earlier_rounds
from tfadv.specs import folder_name
from tfadv.store.files import write_json
from tfadv.training import Checkpoints, Diverged, Trainer, TrainingLog
from tfadv.training.messages import say_outcome

if TYPE_CHECKING:
    from tfadv.experiments.architectures import Architecture
    from tfadv.experiments.context import Context
    from tfadv.experiments.dataset_splits import DatasetSplits
    from tfadv.experiments.model_pool import PooledModel
    from tfadv.experiments.recipe import Recipe
    from tfadv.experiments.stored_samples import StoredSamples

LOG = logging.getLogger(__name__)
_DROPPED_SHARE = 0.1  # of the training images; class balance that leaves out more is a warning


class TrainedModel(WholeArtifact):
    """A model trained by a recipe: `model.keras` and `history.json`."""

    def __init__(
        self,
        context: Context,
        splits: DatasetSplits,
        architecture: Architecture,
        recipe: Recipe,
        *,
        start: TrainedModel | None,
        samples: Sequence[StoredSamples],
    ) -> None:
        """Takes what the model is trained from.

        Args:
          context: settings, work folder and devices.
          splits: the images.
          architecture: the model before training.
          recipe: how it is trained.
          start: the model whose weights training starts from; None means initial weights.
          samples: the stored samples that the recipe trains on.
        """
        self._context, self._config, self._splits = context, context.config, splits
        self._start, self._samples = start, samples
        self._architecture, self.recipe = architecture, recipe
        self._plan = TrainingPlan(context.config, recipe, own_model=architecture.has_weights)
        self.model = architecture.label
        self.folder = f"{folder_name(self.model)}/{folder_name(recipe.name)}"
        self.name = f"models/{self.folder}"
        self.rebuild = f"the same command with --stage={recipe.stage}"

    @property
    def variant(self) -> str:
        """ "model/recipe"."""
        return f"{self.model}/{self.recipe.name}"

    @property
    def subject(self) -> Subject:
        """The model as records name it."""
        return Subject(
            self._config.dataset, self.model, self.recipe.name, self._config.seed, defense=self.recipe.defense
        )

    def inputs(self) -> dict[str, Artifact]:
        """The splits, the model that training starts from, and the surrogate's samples."""
        inputs: dict[str, Artifact] = {"split": self._splits}
        if self._start:
            inputs["start"] = self._start
        for number, samples in enumerate(self._samples):
            inputs[f"samples_{number}" if number else "samples"] = samples
        return inputs

    def settings(self) -> dict:
        """The model, the recipe and how it is trained."""
        levels: Any = list(self._plan.levels[1:]) if self._samples else len(self._plan.levels)
        return {**self._architecture.settings(), "levels": levels, **self._plan.settings()}

    def code(self) -> tuple:
        """This module and that of the objective."""
        return (type(self).__module__, OBJECTIVES[self.recipe.objective])

    def build(self, folder: pathlib.Path, manifest: dict, resume: Any) -> None:
        """Trains the model, and goes on from the last checkpoint where there is one."""
        context = self._context
        if not self._trains:
            self._write_untrained(folder, manifest)
            return
        training, validation = self._training_samples(), self._validation_samples()
        with self._borrow_start() as entry:
            trainer = self._trainer(entry)
            checkpoints = self._checkpoints(manifest["inputs"])
            settings = self._plan.training_settings(
                len(training), spent=self._sample_gradients(), validation=len(validation)
            )
            log_dir = None if context.workdir.follower else context.workdir.root / "logs" / self.folder
            if log_dir and not checkpoints.exist():  # the curves of an earlier training
                shutil.rmtree(log_dir, ignore_errors=True)
            log, name = TrainingLog(log_dir, self._config.profile), f"{self.model} {self.recipe.name}"
            try:
                record = trainer.fit(training, validation, settings, log=log, checkpoints=checkpoints, name=name)
            except Diverged as error:
                last_good = self._save_last_good(trainer, checkpoints)
                raise UserError(f"{error.problem}: give a smaller {self._plan.learning_rate_setting}. {last_good}")
            say_outcome(name, record, validation.labels, self._plan.learning_rate_setting)
            record["gradients"] += self._sample_gradients()
            manifest["devices"] = context.devices.replicas  # without --sync_batchnorm, each has its own statistics
            self._write(folder, manifest, entry, record)

    def _sample_gradients(self) -> int:
        """Gradient images that the stored samples of training and validation took, one per image and surrogate."""
        return sum(stored.sizes["train"] + stored.sizes["validation"] for stored in self._samples)

    @property
    def _trains(self) -> bool:
        """Whether there is anything to do: a user's own model comes with the weights of the reference recipe."""
        return not (self._architecture.has_weights and self.recipe.start == SCRATCH)

    def _write_untrained(self, folder: pathlib.Path, manifest: dict) -> None:
        """Writes a user's own model as it is, after a check that it fits the images."""
        with self._borrow_start() as entry:
            self._write(folder, manifest, entry, {"history": {}, "best_epoch": 0, "steps": 0, "gradients": 0})

    def _write(self, folder: pathlib.Path, manifest: dict, entry: PooledModel, record: dict) -> None:
        """Writes the model, with the user's own head where it is the user's, and how it was trained."""
        model = original(entry.model)
        write_json(folder / "history.json", record)
        files.save(model, folder / "model.keras")
        manifest["content"] = entry.content = self._architecture.content(model)

    def training(self) -> Training:
        """How it was trained, a round with the cost of all rounds before; for an artifact that is up to date."""
        rounds: list[TrainedModel] = [self]
        while rounds[0].recipe.round > 1 and rounds[0]._start:
            rounds.insert(0, rounds[0]._start)
        return with_earlier_rounds([trained._own_training for trained in rounds])

    @functools.cached_property
    def _own_training(self) -> Training:
        """How it was trained, without earlier rounds; kept, because opening an artifact checks all its files."""
        workdir = self._context.workdir
        record = json.loads((workdir.open(self.name) / "history.json").read_text(encoding="utf-8"))
        manifest = workdir.manifest(self.name)
        assert manifest is not None
        return Training.from_files(record, manifest)

    def cleanup(self) -> None:
        """Removes the checkpoints of a model that is complete."""
        self._checkpoints({}).remove()

    def _checkpoints(self, inputs: dict) -> Checkpoints:
        return Checkpoints(self._context.workdir, f"checkpoints/{self.folder}", inputs)

    @contextlib.contextmanager
    def loaded(self) -> Iterator[keras.Model]:
        """Lends the trained model, for evaluation."""
        content = self._context.graph.ensure(self)
        with self._context.pool.borrow(self.model, self._initial_model, content) as entry:
            if entry.content != content:
                folder = self._context.graph.open(self)
                files.load_weights(original(entry.model), folder / "model.keras")
                entry.content = content
            yield entry.model

    @contextlib.contextmanager
    def _borrow_start(self) -> Iterator[PooledModel]:
        """Lends a model with the weights that training starts from."""
        start = None
        if self._start:
            with self._start.loaded() as model:
                start = model.get_weights()
        with self._context.pool.borrow(self.model, self._initial_model) as entry:
            entry.content = None
            entry.model.set_weights(entry.initial_weights if start is None else start)
            yield entry

    def _initial_model(self) -> keras.Model:
        with self._context.devices.strategy.scope():
            return self._architecture.build()

    def _trainer(self, entry: PooledModel) -> Trainer:
        key = self._plan.objective, self._plan.weight_decay, self._plan.optimizer
        if key not in entry.trainers:
            entry.trainers[key] = Trainer(
                entry.model,
                weight_decay=self._plan.weight_decay,
                objective=self._plan.objective,
                optimizer=self._plan.optimizer,
                precision=self._config.precision,
                batch_parts=self._config.batch_parts,
                rematerialize=self._config.rematerialize,
                devices=self._context.devices,
            )
        return entry.trainers[key]

    def _training_samples(self) -> Samples:
        if self._samples:
            read: list[Samples] = []
            for stored in self._samples:  # all of the same images, of which the first holds the only copy
                read.append(stored.read("train", self._plan.levels, read[0].images if read else None))
            kind = MixedSamples if self._plan.objective.needs_mixed_samples else Samples
            perturbations = concatenated(
                [s.perturbations for s in read if s.perturbations is not None], self._context.storage.allocate
            )
            samples = kind(read[0].images, read[0].labels, perturbations, self._plan.levels)
        else:
            # Where clean images are repeated, they are seen as often as retraining sees them: both take equally many
            # steps, and the difference between them is the adversarial images alone.
            train = self._splits.images["train"]
            samples = Samples(train.images, train.labels, None, (0.0,) * len(self._plan.levels))
        if not self.recipe.balance:
            return samples
        balanced, whole = undersample(samples.labels, self._config.seed), len(samples.labels)
        LOG.log(
            logging.WARNING if whole - len(balanced) > _DROPPED_SHARE * whole else logging.INFO,
            "%s %s, class balance: %d of %d training images are kept, as many of each class as the smallest has",
            *(self.model, self.recipe.name, len(balanced), whole),
        )
        return samples.select(balanced)

    def _validation_samples(self) -> Samples:
        """What decides when to stop; an adversarial objective attacks these images itself."""
        if self._samples and not self._plan.objective.is_adversarial:
            return self._samples[0].read("validation", self._plan.levels)
        validation = self._splits.images["validation"]
        return Samples(validation.images, validation.labels)

    def _save_last_good(self, trainer: Trainer, checkpoints: Checkpoints) -> str:
        """Saves the weights of the last checkpoint as a model; returns a sentence that says where."""
        path = checkpoints.folder / "last_good.keras"
        if self._context.workdir.follower or not checkpoints.exist():
            return "There is no earlier checkpoint."
        aside = path.with_name(f".tmp-{path.name}")
        files.save(original(trainer.model), aside)
        aside.replace(path)
        return f"The last good weights are in {path}."
