"""The stages: what each leaves in the work folder and what it needs.

    split ─▶ models/M/baseline ─▶ surrogate ─▶ models/M/retrained ─▶ evaluations/M/V ─▶ results.json ─▶ report
                                        (models/M/augmented needs the baseline only)

Artifacts are pulled, as make does: asking for one first makes what it needs,
and leaves alone what is there and was made from the same inputs.
"""

import functools
import logging

import keras

from tfadv import datasets, models, stopping, surrogate
from tfadv.experiments.graph import Artifacts
from tfadv.config import VARIANTS
from tfadv.datasets import split
from tfadv.datasets.batches import Samples
from tfadv.runtime.devices import Devices, peers_may_die
from tfadv.division import Division
from tfadv.errors import UserError
from tfadv.evaluation import judge
from tfadv.evaluations import Evaluations
from tfadv.models import files
from tfadv.report import report
from tfadv.store.files import digest, link, write_json
from tfadv.training import Checkpoints, Diverged, Trainer

LOG = logging.getLogger(__name__)

MADE_BY = {"baseline": "train", "augmented": "augment", "retrained": "retrain"}  # variant → stage
# The fields of `Config` that training depends on, whatever the variant.
TRAINED_BY = ("seed", "batch_size", "learning_rate", "weight_decay", "precision", "sync_batchnorm", "patience")
REPORT_BYTES = 2_000_000


class Pipeline:
    """The artifacts of one work folder."""

    def __init__(self, config, run, workdir):
        """Takes a resolved `Config`, a `Run` and an open `Workdir`, and takes hold of the devices.

        Raises:
          UserError: there are no such devices, or they can't share a batch equally.
        """
        self.config, self.run, self.workdir = config, run, workdir
        self.devices = Devices(run.distribute, run.virtual_devices)
        self.devices.check_batch(config.batch_size)
        workdir.barrier = functools.partial(self.devices.sum_over_workers, 1)
        workdir.barrier()  # the chief has opened the folder
        if self.devices.replicas > 1:
            LOG.info("%s", self.devices)
        self.artifacts = Artifacts(workdir, run.share())
        self.data = Division(config, run, workdir, self.artifacts)
        self.evaluations = Evaluations(self)
        self._trainers = {}

    def stage(self, name):
        """Does a stage and all it needs that is missing; see `STAGES` in `tfadv.config`."""
        every = self.run.models
        {
            "prepare": self.data.make,
            "train": lambda: [self.model(m, "baseline") for m in every],
            "attack": lambda: [self.evaluations.fgsm(m, "baseline") for m in every],
            "generate": self.surrogate,
            "augment": lambda: [self.model(m, "augmented") for m in every],
            "retrain": lambda: [self.model(m, "retrained") for m in every],
            "evaluate": self.evaluations.every,
            "report": self.report,
            "all": self.report,
        }[name]()

    # ---- models -----------------------------------------------------------------------------------------

    def _trainer(self, name):
        """The compiled model of a name with its initial weights."""
        if name not in self._trainers:
            keras.utils.set_random_seed(self.config.seed)
            shape, classes = self.data.shape, len(self.data.record["class_names"])
            with self.devices.strategy.scope():
                model = models.build(name, shape, classes, synchronized=self.config.sync_batchnorm)
            trainer = Trainer(
                model,
                weight_decay=self.config.weight_decay,
                precision=self.config.precision,
                jit_compile=self.run.jit_compile,
                devices=self.devices,
            )
            self._trainers[name] = trainer, model.get_weights()
        return self._trainers[name]

    def load(self, name, variant):
        """The model of a name with the weights of a variant."""
        folder = self.workdir.open(f"models/{name}/{variant}", MADE_BY[variant])
        model = self._trainer(name)[0].model
        model.set_weights(files.load(folder / "model.keras").get_weights())
        return model

    def model(self, name, variant):
        """Trains a model; leaves `models/<name>/<variant>/model.keras` and `history.json`."""
        config = self.config
        inputs = {
            "split": self.data.make(),
            "model": name,
            "variant": variant,
            **{k: getattr(config, k) for k in TRAINED_BY},
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
                self.load(name, "baseline")
            checkpoints = Checkpoints(self.workdir, f"checkpoints/{name}/{variant}", manifest["inputs"])
            try:
                record = trainer.fit(
                    self._training_samples(variant, levels),
                    self._validation_samples(variant, levels),
                    epochs=inputs["epochs"],
                    batch_size=config.batch_size,
                    learning_rate=config.learning_rate,
                    patience=config.patience,
                    seed=config.seed,
                    log_dir=None if self.workdir.follower else self.workdir.root / "logs" / name / variant,
                    augmentations=inputs.get("augmentations", ()),
                    checkpoints=checkpoints,
                    checkpoint_steps=self.run.checkpoint_steps,
                    name=f"{name} {variant}",
                )
            except Diverged as error:
                raise UserError(f"{error} {self._keep_last_good(trainer, checkpoints)}")
            write_json(folder / "history.json", record)
            files.save(trainer.model, folder / "model.keras")
            manifest["content"] = files.weights_hash(trainer.model)

        content = self.artifacts.make(f"models/{name}/{variant}", inputs, make)
        if (self.workdir.root / "checkpoints" / name / variant).exists():
            self.workdir.remove(f"checkpoints/{name}/{variant}")
        return content

    def _keep_last_good(self, trainer, checkpoints):
        """Saves the weights of the last checkpoint as a model; str, says where."""
        path = checkpoints.folder / "last_good.keras"
        if self.workdir.follower or not checkpoints.exist():
            return "There is no checkpoint from before."
        aside = path.with_name(f".tmp-{path.name}")
        files.save(trainer.model, aside)
        aside.replace(path)
        return f"The last good weights are in {path}."

    def _training_samples(self, variant, levels):
        """`Samples` of the training images; balanced by undersampling but for the baseline."""
        if variant == "retrained":
            samples = self.stored("train", levels)
        else:
            # The control sees each image as often as retraining does, always clean: both make equally many
            # steps, and the difference between them is the adversarial images alone.
            images, labels, _ = self.data.images["train"]
            samples = Samples(images, labels, None, (0.0,) * len(levels))
        if variant == "baseline":
            return samples
        balanced = split.undersample(samples.labels, self.config.seed)
        LOG.info("balance: %d of %d training images stay", len(balanced), len(samples.labels))
        return samples.select(balanced)

    def _validation_samples(self, variant, levels):
        """`Samples` that decide when to stop: what the variant trains on, in the validation split."""
        if variant == "retrained":
            return self.stored("validation", levels)
        images, labels, _ = self.data.images["validation"]
        return Samples(images, labels)

    # ---- surrogate --------------------------------------------------------------------------------------

    @property
    def samples(self):
        """str, the artifact of the surrogate's samples, a TFDS folder `surrogate/<dataset>_surrogate/<version>`."""
        return f"surrogate/{self.config.dataset}_surrogate/{surrogate.VERSION}"

    def surrogate(self):
        """Perturbs every split with the surrogate; leaves a TFDS folder `surrogate/<dataset>_surrogate/<version>`."""
        config = self.config
        inputs = {
            "split": self.data.make(),
            "surrogate": config.surrogate,
            "weights": self.model(config.surrogate, "baseline"),
            "attack": "fgsm",
            "seed": config.seed,
        }
        name, shape, counts = f"{config.dataset}_surrogate", self.data.shape, self.data.counts()
        model = functools.cache(lambda: self.load(config.surrogate, "baseline"))
        shards = surrogate.shards(counts, shape)

        def make(folder, shard, progress):
            images, labels, ids = (column[shard.start : shard.stop] for column in self.data.images[shard.split])
            batches = surrogate.perturbations(
                model(),
                images,
                labels,
                batch_size=config.batch_size,
                jit_compile=self.run.jit_compile,
                devices=self.devices,
                progress=progress,
            )
            surrogate.write_shard(folder, name, shard, images, labels, ids, batches)

        def join(folder, manifest, parts):
            for part in parts:
                for path in part.glob("*.tfrecord-*"):
                    link(path, folder / path.name)
            dataset = self.data.record["dataset"]
            manifest["dataset"] = dataset
            manifest["epsilons"] = list(config.epsilons)  # the samples serve any other eps as well
            manifest["counts"] = counts
            surrogate.write_metadata(
                folder,
                name,
                shards,
                shape,
                self.data.record["class_names"],
                f"FGSM perturbations of {dataset} by {config.surrogate}: "
                "adversarial image = clip(image / 255 + eps * perturbation / 127, 0, 1).",
            )

        need = max(map(len, shards)) * surrogate.sample_bytes(shape)
        return self.artifacts.make_in_parts(self.samples, inputs, shards, make, join, need)

    def stored(self, part, levels):
        """`Samples` of the surrogate's folder, checked against the division."""
        self.surrogate()
        folder = self.workdir.open(self.samples, "generate")
        samples, ids = surrogate.read(folder, part, levels)
        if ids.tolist() != self.data.record[part]:
            raise UserError(f"{folder} holds other images than the division's split {part}: remove it.")
        return samples

    # ---- report -----------------------------------------------------------------------------------------

    def report(self):
        """Tables, plots and pictures; leaves `report/`."""
        config, name, evaluations = self.config, self.run.models[0], self.evaluations
        inputs = {"evaluations": digest(evaluations.every()), "models": list(self.run.models)}
        pairs = [(m, v) for m in self.run.models for v in VARIANTS]

        def make(folder, manifest):
            del manifest
            report(
                folder,
                evaluations.records(self.run.models),
                datasets.SOURCES[config.dataset].paper,
                {v: functools.partial(self.load, name, v) for v in VARIANTS},
                evaluations.test_samples(),
                max(config.epsilons),
                self.data.record["class_names"],
                evaluations.matrix(pairs),
                {of: judge(facts) for of, facts in evaluations.facts(pairs).items()},
            )

        self.artifacts.make("report", inputs, make, need=REPORT_BYTES)


def execute(config, run, workdir):
    """Runs a stage.  Returns its `Artifacts`, which name what was made; none when all was up to date."""
    with peers_may_die():
        pipeline = Pipeline(config, run, workdir)
        signals.install()  # where there are several hosts, TensorFlow has taken SIGTERM for itself
        pipeline.stage(run.stage)
    return pipeline.artifacts
