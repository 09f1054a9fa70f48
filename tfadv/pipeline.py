"""The stages: what each leaves in the work folder and what it needs.

    split ─▶ models/M/baseline ─▶ surrogate ─▶ models/M/retrained ─▶ evaluations/M/V ─▶ results.json ─▶ report
                                        (models/M/augmented needs the baseline only)

Artifacts are pulled, as make does: asking for one first makes what it needs,
and leaves alone what is there and was made from the same inputs.
"""

import errno
import functools
import json
import logging
import os
import shutil

import keras
import numpy as np
import tensorflow as tf

from tfadv import datasets, models, surrogate
from tfadv.config import VARIANTS
from tfadv.datasets import sources, split
from tfadv.datasets.batches import Samples
from tfadv.errors import UserError
from tfadv.evaluation import evaluate, records
from tfadv.models import files
from tfadv.report import report
from tfadv.training import Checkpoints, Trainer
from tfadv.workdir import digest, write_json

LOG = logging.getLogger(__name__)

# Raised when the code of an artifact changes what it makes: older ones are then made anew.
CODE = {"split": 1, "model": 3, "surrogate": 2, "evaluation": 2, "report": 2}

MADE_BY = {"baseline": "train", "augmented": "augment", "retrained": "retrain"}  # variant → stage


class Pipeline:
    """The artifacts of one work folder."""

    def __init__(self, config, run, workdir):
        """Takes a resolved `Config`, a `Run` and an open `Workdir`."""
        self.config, self.run, self.workdir = config, run, workdir
        self.made = []  # names of the artifacts this process made
        self._trainers = {}

    def stage(self, name):
        """Does a stage and all it needs that is missing; see `STAGES` in `tfadv.config`."""
        every = self.run.models
        {
            "prepare": self.split,
            "train": lambda: [self.model(m, "baseline") for m in every],
            "attack": lambda: [self.evaluation(m, "baseline") for m in every],
            "generate": self.surrogate,
            "augment": lambda: [self.model(m, "augmented") for m in every],
            "retrain": lambda: [self.model(m, "retrained") for m in every],
            "evaluate": self.results,
            "report": self.report,
            "all": self.report,
        }[name]()

    def _artifact(self, name, inputs, make):
        """Makes an artifact unless it is current; returns its content hash."""
        inputs = inputs | {"code": CODE[name.split("/")[0].rstrip("s")]}
        if not self.workdir.is_current(name, inputs):
            LOG.info("%s …", name)
            with self.workdir.creating(name, inputs) as (folder, manifest):
                make(folder, manifest)
            self.made.append(name)
            LOG.info("%s done in %.0f s", name, self.workdir.manifest(name)["seconds"])
        return self.workdir.manifest(name)["content"]

    # ---- data -------------------------------------------------------------------------------------------

    @functools.cached_property
    def _pool(self):
        pool = sources.load(self.config.dataset, self.run.data_dir, self.config.image_size)
        LOG.info("%s: %d images, %d classes", pool.full_name, len(pool.labels), len(pool.class_names))
        return pool

    def split(self):
        """Divides the data set; leaves `split/division.json`."""
        config = self.config
        inputs = {
            "dataset": config.dataset,
            "image_size": config.image_size,
            "seed": config.seed,
            "train_size": config.train_size,
        }

        def make(folder, manifest):
            pool = self._pool
            division = split.divide(pool.labels, config.seed, config.train_size)
            names = pool.class_names
            manifest["counts"] = {
                part: dict(zip(names, np.bincount(pool.labels[rows], minlength=len(names)).tolist()))
                for part, rows in division.items()
            }
            record = {
                "dataset": pool.full_name,
                "images": len(pool.labels),
                "images_sha256": pool.digest(),
                "class_names": names,
                **{part: rows.tolist() for part, rows in division.items()},
            }
            write_json(folder / "division.json", record, indent=None)

        return self._artifact("split", inputs, make)

    @functools.cached_property
    def _division(self):
        self.split()
        return json.loads((self.workdir.open("split", "prepare") / "division.json").read_text())

    @functools.cached_property
    def _images(self):
        """dict of part → (images, labels, ids)."""
        division, pool = self._division, self._pool
        if pool.digest() != division["images_sha256"]:
            raise UserError(
                f"the images of {pool.full_name} in {self.run.data_dir} are not those that {self.workdir.root} was "
                "made from: bring them back, or give another --workdir."
            )
        rows = {part: np.asarray(division[part], np.int64) for part in split.SPLITS}
        return {part: (pool.images[r], pool.labels[r], r) for part, r in rows.items()}

    # ---- models -----------------------------------------------------------------------------------------

    def _trainer(self, name):
        """The compiled model of a name with its initial weights."""
        if name not in self._trainers:
            source = datasets.SOURCES[self.config.dataset]
            keras.utils.set_random_seed(self.config.seed)
            shape = (self.config.image_size, self.config.image_size, source.channels)
            model = models.build(name, shape, len(self._division["class_names"]))
            trainer = Trainer(
                model,
                weight_decay=self.config.weight_decay,
                precision=self.config.precision,
                jit_compile=self.run.jit_compile,
            )
            self._trainers[name] = trainer, model.get_weights()
        return self._trainers[name]

    def _load(self, name, variant):
        """The model of a name with the weights of a variant."""
        folder = self.workdir.open(f"models/{name}/{variant}", MADE_BY[variant])
        model = self._trainer(name)[0].model
        model.set_weights(files.load(folder / "model.keras").get_weights())
        return model

    def model(self, name, variant):
        """Trains a model; leaves `models/<name>/<variant>/model.keras` and `history.json`."""
        config = self.config
        inputs = {
            "split": self.split(),
            "model": name,
            "variant": variant,
            **{
                k: getattr(config, k)
                for k in ("seed", "batch_size", "learning_rate", "weight_decay", "precision", "patience")
            },
        }
        start = "scratch" if variant == "baseline" else config.retrain_from
        levels = (0.0,) if variant == "baseline" else (0.0, *config.epsilons)
        if variant == "baseline":
            inputs |= {"epochs": config.epochs}
        else:
            inputs |= {"epochs": config.retrain_epochs, "augmentations": list(config.augmentations), "start": start}
            inputs |= {"levels": len(levels)} if variant == "augmented" else {"epsilons": list(config.epsilons)}
        if start == "baseline":
            inputs["start"] = self.model(name, "baseline")
        if variant == "retrained":
            inputs["surrogate"] = self.surrogate()

        def make(folder, manifest):
            trainer, initial = self._trainer(name)
            trainer.model.set_weights(initial)
            if start == "baseline":
                self._load(name, "baseline")
            made_from = manifest["inputs"]  # with the code's version
            checkpoints = functools.partial(Checkpoints, self.workdir, f"checkpoints/{name}/{variant}", made_from)
            record = trainer.fit(
                self._training_samples(variant, levels),
                self._validation_samples(variant, levels),
                epochs=inputs["epochs"],
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                patience=config.patience,
                seed=config.seed,
                log_dir=self.workdir.root / "logs" / name / variant,
                augmentations=inputs.get("augmentations", ()),
                checkpoints=checkpoints,
            )
            write_json(folder / "history.json", record)
            files.save(trainer.model, folder / "model.keras")
            manifest["content"] = files.weights_hash(trainer.model)

        content = self._artifact(f"models/{name}/{variant}", inputs, make)
        shutil.rmtree(self.workdir.root / "checkpoints" / name / variant, ignore_errors=True)
        return content

    def _training_samples(self, variant, levels):
        """`Samples` of the training images; balanced by undersampling but for the baseline."""
        if variant == "retrained":
            samples = self._stored("train", levels)
        else:
            # The control sees each image as often as retraining does, always clean: both make equally many
            # steps, and the difference between them is the adversarial images alone.
            images, labels, _ = self._images["train"]
            samples = Samples(images, labels, None, (0.0,) * len(levels))
        if variant == "baseline":
            return samples
        balanced = split.undersample(samples.labels, self.config.seed)
        LOG.info("balance: %d of %d training images stay", len(balanced), len(samples.labels))
        return samples.select(balanced)

    def _validation_samples(self, variant, levels):
        """`Samples` that decide when to stop: what the variant trains on, in the validation split."""
        if variant == "retrained":
            return self._stored("validation", levels)
        images, labels, _ = self._images["validation"]
        return Samples(images, labels)

    # ---- surrogate --------------------------------------------------------------------------------------

    @property
    def _surrogate_name(self):
        return f"{self.config.dataset}_surrogate"

    def surrogate(self):
        """Perturbs every split with the surrogate; leaves a TFDS folder `surrogate/<dataset>_surrogate/<version>`."""
        config = self.config
        inputs = {
            "split": self.split(),
            "surrogate": config.surrogate,
            "weights": self.model(config.surrogate, "baseline"),
            "attack": "fgsm",
            "seed": config.seed,
        }

        def make(folder, manifest):
            model = self._load(config.surrogate, "baseline")
            attack = functools.partial(
                surrogate.perturbations, model, batch_size=config.batch_size, jit_compile=self.run.jit_compile
            )
            manifest["dataset"] = self._division["dataset"]
            manifest["epsilons"] = list(config.epsilons)  # the samples serve any other eps as well
            manifest["counts"] = surrogate.write(
                folder,
                self._surrogate_name,
                self._images,
                self._division["class_names"],
                lambda images, labels, progress: attack(images, labels, progress=progress),
                f"FGSM perturbations of {self._division['dataset']} by {config.surrogate}: "
                "adversarial image = clip(image / 255 + eps * perturbation / 127, 0, 1).",
            )

        return self._artifact(f"surrogate/{self._surrogate_name}/{surrogate.VERSION}", inputs, make)

    def _stored(self, part, levels):
        """`Samples` of the surrogate's folder, checked against the division."""
        self.surrogate()
        folder = self.workdir.open(f"surrogate/{self._surrogate_name}/{surrogate.VERSION}", "generate")
        samples, ids = surrogate.read(folder, part, levels)
        if ids.tolist() != self._division[part]:
            raise UserError(f"{folder} holds other images than the division's split {part}: remove it.")
        return samples

    # ---- evaluation and report --------------------------------------------------------------------------

    def evaluation(self, name, variant):
        """Counts what a model gets right on the test images; leaves `evaluations/<name>/<variant>/records.json`."""
        config = self.config
        inputs = {
            "weights": self.model(name, variant),
            "surrogate": self.surrogate(),
            "epsilons": list(config.epsilons),
            "attack": "fgsm",
        }

        def make(folder, manifest):
            del manifest
            counted = evaluate(
                self._load(name, variant),
                self._stored("test", config.epsilons),
                batch_size=config.batch_size,
                jit_compile=self.run.jit_compile,
                description=f"{name} {variant}",
            )
            made = records.make(
                counted,
                dataset=config.dataset,
                model=name,
                variant=variant,
                surrogate=config.surrogate,
                seed=config.seed,
            )
            write_json(folder / "records.json", made)
            LOG.info("%s %s: %s", name, variant, ", ".join(map(records.short, made)))

        content = self._artifact(f"evaluations/{name}/{variant}", inputs, make)
        records.collect(self.workdir.root, models.MODELS, VARIANTS)
        return content

    def results(self):
        """Evaluates every model and variant; leaves `results.json`."""
        return {f"{m}/{v}": self.evaluation(m, v) for m in self.run.models for v in VARIANTS}

    def report(self):
        """Tables, plots and pictures; leaves `report/`."""
        inputs = {"evaluations": digest(self.results()), "models": list(self.run.models)}
        config, name = self.config, self.run.models[0]

        def make(folder, manifest):
            del manifest
            found = json.loads((self.workdir.root / "results.json").read_text())
            images, labels, _ = self._images["test"]
            report(
                folder,
                [r for r in found if r["model"] in self.run.models],
                datasets.SOURCES[config.dataset].paper,
                {v: functools.partial(self._load, name, v) for v in VARIANTS},
                Samples(images, labels),
                max(config.epsilons),
                self._division["class_names"],
            )

        self._artifact("report", inputs, make)


def execute(config, run, workdir):
    """Runs a stage.  Returns the names of the artifacts made; none when all was up to date."""
    pipeline = Pipeline(config, run, workdir)
    try:
        pipeline.stage(run.stage)
    except (tf.errors.ResourceExhaustedError, tf.errors.UnknownError, tf.errors.InternalError) as error:
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(workdir.root))  # TensorFlow's file layer says it so
    return pipeline.made
