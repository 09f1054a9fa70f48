"""How a defense trains one model of a run."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras

from tfadv.datasets.batches import Samples
from tfadv.datasets.splits import undersample
from tfadv.defenses.base import ADAM_RATE, FINE_TUNING_RATE, Defense
from tfadv.defenses.stored import Rounds
from tfadv.errors import UserError
from tfadv.models import files
from tfadv.models.logits import original
from tfadv.pipeline.cached import Entry
from tfadv.report.data import Training, with_earlier_rounds
from tfadv.specs import folder_name
from tfadv.store.files import source_of, write_json
from tfadv.training import Checkpoints, Diverged, Trainer, TrainingLog, TrainingSettings
from tfadv.training.messages import say_outcome
from tfadv.training.trainer import attacked_images

if TYPE_CHECKING:
    from tfadv.pipeline.networks import Network
    from tfadv.pipeline.run import BuiltModel, Run
    from tfadv.pipeline.stored import StoredImages

LOG = logging.getLogger(__name__)
EPOCHS = 10  # of defenses on clean images
_DROPPED_SHARE = 0.1  # of the training images; class balance that leaves out more is a warning


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and at what rate a defense trains: its settings, or those of the run where it has none."""

    epochs: int
    budget: float  # gradients of single images; 0 where the number of epochs counts
    optimizer: str
    learning_rate: float
    weight_decay: float
    augmentations: tuple[str, ...]
    levels: tuple[float, ...]  # the sizes of eps at which each training image is seen; 0 is the clean image
    eps: float | tuple[float, ...]  # that training images are attacked with, in each norm
    validation_eps: float  # that validation images are attacked with, in the first norm


def schedule(run: Run, defense: Defense, network: Network) -> Schedule:
    """How a defense trains a model."""
    config = run.config
    of_run = EPOCHS if defense.images == "clean" else config.retrain_epochs
    share = defense.eps_share if isinstance(defense, Rounds) else 1.0
    adam = defense.attacks or network.is_own if defense.optimizer == "auto" else defense.optimizer == "adam"
    # The rate of the run is for SGD, unless the model is the user's own.
    rate = 0.0 if adam and not network.is_own else config.learning_rate
    budget = config.budget / (defense.number if isinstance(defense, Rounds) else 1)
    of_epsilons, sizes = max(config.epsilons), getattr(defense, "sizes", ()) or (max(config.epsilons),)
    return Schedule(
        epochs=defense.epochs or (config.epochs if defense.start is None else of_run),
        budget=budget if defense.uses_budget else 0,
        optimizer="adam" if adam else "sgd",
        learning_rate=defense.learning_rate or rate or (ADAM_RATE if adam else FINE_TUNING_RATE),
        weight_decay=config.weight_decay if defense.weight_decay is None else defense.weight_decay,
        augmentations=config.augmentations if defense.augment else (),
        levels=(0.0,) if defense.images == "clean" else (0.0, *(share * eps for eps in config.epsilons)),
        eps=sizes if len(sizes) > 1 else sizes[0],
        # --epsilons are sizes in linf.
        validation_eps=of_epsilons if getattr(defense, "norm", "linf") == "linf" else sizes[0],
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model trained by a defense: `model.keras` and `history.json` in a folder.

    Attributes:
      model: the name of the model, as `--models` has it.
      defense: how it was trained.
      network: the model before training.
      entry: the folder.
      start: the model whose weights training started from; None means initial weights.
    """

    model: str
    defense: Defense
    network: Network
    entry: Entry
    start: Trained | None

    @property
    def name(self) -> str:
        """ "model/defense"."""
        return f"{self.network.label}/{self.defense.label}"

    @property
    def folder(self) -> str:
        """The same for the disk."""
        return folder(self.network, self.defense)


def folder(network: Network, defense: Defense) -> str:
    """The name of a model and a defense on the disk."""
    return f"{folder_name(network.label)}/{folder_name(defense.label)}"


def trained_by(run: Run, model: str, defense: Defense, start: Trained | None, stored: StoredImages | None) -> Trained:
    """Trains a model by a defense, unless that is done.

    Args:
      run: settings, work folder and devices.
      model: its name.
      defense: how it is trained.
      start: the model whose weights training starts from; None means initial weights.
      stored: the stored adversarial images that the defense trains on, if any.
    """
    network = run.network(model)
    how = schedule(run, defense, network)
    job = _Job(run, model, defense, network, how, start, stored)
    entry = run.cache.cached(
        f"models/{folder(network, defense)}",
        job.inputs,
        job.build,
        stage=defense.stage,
        keep=defense.start is not None or not network.is_own,
        renew=run.config.overwrite and bool(network.access),
    )
    if entry.content:
        made_from = (run.workdir.manifest(entry.name) or {"inputs": {}})["inputs"]
        job.checkpoints(made_from).remove()
    return Trained(model, defense, network, entry, start)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What `trained_by` was asked for."""

    run: Run
    model: str
    defense: Defense
    network: Network
    how: Schedule
    start: Trained | None
    stored: StoredImages | None

    def inputs(self) -> dict[str, Any]:
        """What the trained weights depend on."""
        run, config, defense = self.run, self.run.config, self.defense
        schedule = dataclasses.asdict(self.how) | ({"epochs": 0} if self.how.budget else {})
        if not self.stored:  # clean images are repeated as often as there are levels, whatever these are
            schedule["levels"] = len(self.how.levels)
        if not defense.attacks:
            del schedule["eps"], schedule["validation_eps"]
        settings = defense.settings()
        for name in (*schedule, *(["number"] if not self.how.budget else [])):
            settings.pop(name, None)
        if settings.get("norm") == "linf":  # models from before there was another norm stay up to date
            del settings["norm"]
        return {
            "split": run.dataset.entry,
            "start": self.start.entry if self.start else None,
            "stored": self.stored.entry if self.stored else None,
            **self.network.inputs(),
            "defense": defense.name,
            "source": source_of(type(defense)),
            **settings,
            **schedule,
            **({"share_of": 2} if getattr(defense, "share", 1) < 1 else {}),  # 1 attacked the first images of a batch
            **({"averaging": 2} if defense.average else {}),  # 1 kept the first weights of short trainings
            **{name: getattr(config, name) for name in ("seed", "batch_size", "batch_parts", "precision", "patience")},
        }

    def build(self, folder: pathlib.Path, manifest: dict, resume: object) -> None:
        """Trains the model, and goes on from the last checkpoint where there is one."""
        run, how = self.run, self.how
        if self.network.is_own and self.defense.start is None:  # the user's model comes with its weights
            with self._lend() as built:
                self._write(folder, manifest, built, {"history": {}, "best_epoch": 0, "steps": 0, "gradients": 0})
            return
        checkpoints = self.checkpoints(manifest["inputs"])
        checkpoints.check(run.config.overwrite)
        training, validation = self._training_samples(), self._validation_samples()
        with self._lend() as built:
            trainer = self._trainer(built)
            settings = TrainingSettings(
                epochs=how.epochs,
                batch_size=run.config.batch_size,
                learning_rate=how.learning_rate,
                patience=run.config.patience,
                seed=run.config.seed,
                augmentations=how.augmentations,
                steps=self._steps(len(training), len(validation)),
                keep_start=self.network.is_own,
                average=self.defense.average,
                eps=how.validation_eps,
            )
            log_dir = None if run.workdir.follower else run.workdir.root / "logs" / self._folder
            if log_dir and not checkpoints.exist():  # the curves of an earlier training
                shutil.rmtree(log_dir, ignore_errors=True)
            name = f"{self.network.label} {self.defense.label}"
            rate = f"{self._rate_setting} (now {how.learning_rate:g})"
            try:
                record = trainer.fit(
                    training, validation, settings, log=TrainingLog(log_dir), checkpoints=checkpoints, name=name
                )
            except Diverged as error:
                last_good = self._save_last_good(trainer, checkpoints)
                anew = " and --overwrite" if checkpoints.exist() else ""
                raise UserError(f"{error.problem}: give a smaller {rate}{anew}. {last_good}")
            say_outcome(name, record, validation.labels, rate)
            record["gradients"] += self._stored_gradients
            manifest["devices"] = run.devices.replicas  # each has its own BatchNorm statistics
            self._write(folder, manifest, built, record)
            manifest["seconds"] = round(checkpoints.seconds, 1)

    @property
    def _folder(self) -> str:
        return folder(self.network, self.defense)

    @property
    def _rate_setting(self) -> str:
        """What a user changes."""
        from_run = not self.defense.learning_rate and (self.how.optimizer == "sgd" or self.network.is_own)
        return "--learning_rate" if from_run else f"learning_rate in --defenses='{self.defense.name}(learning_rate=…)'"

    @property
    def _stored_gradients(self) -> int:
        """Gradients that the stored images of training and validation took, one per image."""
        return self.stored.sizes["train"] + self.stored.sizes["validation"] if self.stored else 0

    def _steps(self, images: int, validation: int) -> int:
        """The optimizer steps that the budget pays for, or 0 where the number of epochs is given.

        Attacks on validation images, before training and after each epoch, are paid from it as well, and so are the
        stored images.

        Raises:
          UserError: it pays for no step.
        """
        if not self.how.budget:
            return 0
        batch = min(self.run.config.batch_size, images)
        per_epoch, per_step = images // batch, batch * self.defense.cost
        per_validation = attacked_images(validation, batch) * self.defense.validation_cost
        left = self.how.budget - self._stored_gradients - per_validation
        epochs, rest = divmod(left, per_epoch * per_step + per_validation)
        steps = int(epochs * per_epoch + max(0, (rest - per_validation) // per_step))
        if steps < 1:
            raise UserError(f"--budget={self.run.config.budget} is too small for {self.defense.label}: give more.")
        return steps

    def _training_samples(self) -> Samples:
        levels = self.how.levels
        if self.stored:
            samples = self.stored.read("train", levels)
        else:
            train = self.run.dataset.images["train"]
            samples = Samples(train.images, train.labels, None, (0.0,) * len(levels))
        if not self.defense.balance:
            return samples
        balanced, whole = undersample(samples.labels, self.run.config.seed), len(samples.labels)
        LOG.log(
            logging.WARNING if whole - len(balanced) > _DROPPED_SHARE * whole else logging.INFO,
            "%s %s, class balance: %d of %d training images are kept, as many of each class as the smallest has",
            *(self.network.label, self.defense.label, len(balanced), whole),
        )
        return samples.select(balanced)

    def _validation_samples(self) -> Samples:
        """What decides when to stop; a defense that attacks does so to these images itself."""
        if self.stored:
            return self.stored.read("validation", self.how.levels)
        validation = self.run.dataset.images["validation"]
        return Samples(validation.images, validation.labels)

    def _trainer(self, built: BuiltModel) -> Trainer:
        key = self.defense.step_only(), self.how.weight_decay, self.how.optimizer
        if key not in built.trainers:
            built.trainers[key] = Trainer(
                built.model,
                defense=self.defense,
                optimizer=self.how.optimizer,
                weight_decay=self.how.weight_decay,
                precision=self.run.config.precision,
                batch_parts=self.run.config.batch_parts,
                devices=self.run.devices,
            )
        return built.trainers[key]

    @contextmanager
    def _lend(self) -> Iterator[BuiltModel]:
        """Lends a model with the weights that training starts from."""
        start = None
        if self.start:
            with loaded(self.run, self.start) as model:
                start = model.get_weights()
        with self.run.lend(self.model) as built:
            built.content = None
            built.model.set_weights(built.initial_weights if start is None else start)
            yield built

    def checkpoints(self, inputs: dict) -> Checkpoints:
        """Those of this training."""
        return Checkpoints(self.run.workdir, f"checkpoints/{self._folder}", inputs)

    def _write(self, folder: pathlib.Path, manifest: dict, built: BuiltModel, record: dict) -> None:
        """Writes the model, with the user's own head where it is the user's, and how it was trained."""
        model = original(built.model)
        write_json(folder / "history.json", record)
        files.save(model, folder / "model.keras")
        manifest["model"], manifest["defense"] = self.network.label, self.defense.label
        manifest["content"] = built.content = self.network.content(model)

    def _save_last_good(self, trainer: Trainer, checkpoints: Checkpoints) -> str:
        """Saves the weights of the last checkpoint as a model; returns a sentence that says where."""
        path = checkpoints.folder / "last_good.keras"
        if self.run.workdir.follower or not checkpoints.exist():
            return "There is no earlier checkpoint."
        aside = path.with_name(f".tmp-{path.name}")
        files.save(original(trainer.model), aside)
        aside.replace(path)
        return f"The last good weights are in {path}."


@contextmanager
def loaded(run: Run, trained: Trained) -> Iterator[keras.Model]:
    """Lends a trained model, for evaluation."""
    with run.lend(trained.model, trained.entry.content) as built:
        if built.content != trained.entry.content:
            files.load_weights(original(built.model), run.cache.open(trained.entry) / "model.keras")
            built.content = trained.entry.content
        yield built.model


def training_of(run: Run, trained: Trained) -> Training:
    """How a model was trained, a round with the cost of all rounds before."""
    rounds = [trained]
    while isinstance(rounds[0].defense, Rounds) and rounds[0].defense.round > 1 and rounds[0].start:
        rounds.insert(0, rounds[0].start)
    return with_earlier_rounds([_own_training(run, each.entry.name) for each in rounds])


def _own_training(run: Run, name: str) -> Training:
    record = json.loads((run.workdir.root / name / "history.json").read_text(encoding="utf-8"))
    manifest = run.workdir.manifest(name)
    assert manifest is not None
    return Training.from_files(record, manifest)
