"""What is measured of the models of a work folder, artifact by artifact, and the records of it.

evaluations/M/V        clean, and under FGSM white-box and transferred from the surrogate: the paper's tables
attacks/M/V/NAME       which images withstand an attack of `--attacks`
transfers/M/V          which models withstand the images that break this one
verdicts/M/V           whether this model's gradients can be believed
"""

import functools
import json
import logging

import keras
import numpy as np

from tfadv import attacks, models
from tfadv.experiments.graph import code
from tfadv.config import VARIANTS
from tfadv.datasets.batches import Samples, to_float
from tfadv.errors import UserError
from tfadv.evaluation import accuracy, judge, masking, records, strength
from tfadv.store.files import write_json

LOG = logging.getLogger(__name__)

BLOCK = 256  # images, at most, that a killed run has to attack again
STRONG_BLOCK = 512  # the same for `--attacks`: the few that stay unbroken have to fill a batch
VERDICT_IMAGES = 128  # see `masking.measure`
TRANSFERRED = "pgd"  # the attack of the transfer matrix, all its steps gone


class Evaluations:
    """The evaluations of a `Pipeline`."""

    def __init__(self, pipeline):
        """Takes the `Pipeline` whose models are to be measured."""
        self._pipeline, self._workdir, self._artifacts = pipeline, pipeline.workdir, pipeline.artifacts
        self._config, self._run = pipeline.config, pipeline.run

    def every(self):
        """Evaluates every model and variant as the flags ask for; dict of artifact → content hash."""
        pairs = [(name, variant) for name in self._run.models for variant in VARIANTS]
        made = {}
        for name, variant in pairs:
            made[f"evaluations/{name}/{variant}"] = self.fgsm(name, variant)
            for attack in self._run.attacks:
                made[f"attacks/{name}/{variant}/{attack}"] = self.attack(name, variant, attack)
        if self._run.attacks and not self._run.shard:
            for name, variant in pairs:
                made[f"transfers/{name}/{variant}"] = self.transfer(name, variant, pairs)
                made[f"verdicts/{name}/{variant}"] = self.verdict(name, variant)
        return made

    def records(self, names):
        """list of the records of some models, in the order of the tables."""
        found = []
        for name in names:
            for variant in VARIANTS:
                whole = f"evaluations/{name}/{variant}"
                if self._holds(whole, self._weights(name, variant)):
                    found += self._read(whole, "records.json") + self._attacked(name, variant)
        return found

    def _weights(self, name, variant):
        """str, the hash of the weights that a model has now, or None where there is no such model."""
        return (self._workdir.manifest(f"models/{name}/{variant}") or {}).get("content")

    def _holds(self, artifact, weights):
        """Whether an artifact is there, of these weights (a hash, or a dict of them) and by the code of now."""
        inputs = (self._workdir.manifest(artifact) or {"inputs": {}})["inputs"]
        return (inputs.get("weights"), inputs.get("code")) == (weights, code(artifact))

    def _attacked(self, name, variant):
        """list of the records of a model's attacks, and of the worst case over them."""
        folders = [f"attacks/{name}/{variant}/{attack}" for attack in attacks.ATTACKS]
        there = [folder for folder in folders if self._holds(folder, self._weights(name, variant))]
        made = [record for folder in there for record in self._read(folder, "records.json")]
        sizes = {record["n"] for record in made}
        if len(sizes) != 1:  # attacks on different numbers of images have no worst case
            return made
        (n,) = sizes
        names = [folder.rsplit("/", 1)[1] for folder in there]
        whole = self._workdir.open(f"evaluations/{name}/{variant}", "evaluate")
        levels = len(self._config.epsilons)
        survivors = np.load(whole / "hits.npy")[1 : 1 + levels, :n]  # of white-box FGSM
        for folder in there:
            survivors = survivors & np.load(self._workdir.open(folder, "evaluate") / "hits.npy")
        worst = {"attacks": ["fgsm", *(n for n in names if n != "fgsm")]}
        return made + records.of_attack(
            "worst", survivors, self._config.epsilons, worst, None, **self._of(name, variant)
        )

    def _read(self, artifact, file):
        return json.loads((self._workdir.open(artifact, "evaluate") / file).read_text())

    def _of(self, name, variant):
        return {"dataset": self._config.dataset, "model": name, "variant": variant, "seed": self._config.seed}

    def _publish(self):
        """Writes results.json anew, so that what is there is what the artifacts say."""
        if not self._workdir.follower:
            write_json(self._workdir.root / "results.json", self.records(models.MODELS))

    def _blocks(self, n, size=BLOCK):
        return [range(i, min(i + size, n)) for i in range(0, n, size)]

    # ---- clean, FGSM and the surrogate's images ---------------------------------------------------------

    def fgsm(self, name, variant):
        """Counts what a model gets right on the test images; leaves `evaluations/<name>/<variant>`."""
        config, pipeline = self._config, self._pipeline
        if self._run.shard and not self._workdir.manifest(pipeline.samples):
            raise UserError("--shard needs the surrogate's samples: join them first, by --stage=generate without it.")
        inputs = {
            "weights": pipeline.model(name, variant),
            "surrogate": pipeline.surrogate(),
            "epsilons": list(config.epsilons),
            "attack": "fgsm",
        }
        model = functools.cache(lambda: pipeline.load(name, variant))
        samples = functools.cache(lambda: pipeline.stored("test", config.epsilons))

        def make(folder, block, progress):
            found = accuracy.hits(
                model(),
                samples().select(block),
                batch_size=config.batch_size,
                jit_compile=self._run.jit_compile,
                devices=pipeline.devices,
                progress=progress,
            )
            np.save(folder / "hits.npy", found)

        def join(folder, manifest, parts):
            del manifest
            found = np.concatenate([np.load(part / "hits.npy") for part in parts], axis=1)
            np.save(folder / "hits.npy", found)
            made = records.of_fgsm(found, config.epsilons, config.surrogate, **self._of(name, variant))
            write_json(folder / "records.json", made)
            LOG.info("%s %s: %s", name, variant, ", ".join(map(records.short, made)))

        blocks = self._blocks(pipeline.data.counts()["test"])
        content = self._artifacts.make_in_parts(f"evaluations/{name}/{variant}", inputs, blocks, make, join)
        if content:
            self._publish()
        return content

    # ---- stronger attacks -------------------------------------------------------------------------------

    def _test(self):
        """(images uint8, labels): the first `--eval_size` test images."""
        images, labels, _ = self._pipeline.data.images["test"]
        n = self._run.eval_size or len(labels)
        return images[:n], labels[:n]

    def _eval_size(self):
        all_ = self._pipeline.data.counts()["test"]
        return min(self._run.eval_size or all_, all_)

    def attack(self, name, variant, attack):
        """Attacks a model with one of `tfadv.attacks.ATTACKS`; leaves `attacks/<name>/<variant>/<attack>`."""
        config, pipeline = self._config, self._pipeline
        set_so = strength.settings(attack)
        inputs = {
            "weights": pipeline.model(name, variant),
            "split": pipeline.data.make(),
            "epsilons": list(config.epsilons),
            "images": self._eval_size(),
            "settings": set_so,
            "seed": config.seed,
        }
        model = functools.cache(lambda: pipeline.load(name, variant))

        def make(folder, block, progress):
            images, labels = (column[block.start : block.stop] for column in self._test())
            common = dict(batch_size=config.batch_size, seed=config.seed, progress=progress)
            found, cost = strength.withstood(model(), images, labels, attack, config.epsilons, **common)
            np.save(folder / "hits.npy", found)
            write_json(folder / "cost.json", cost)

        def join(folder, manifest, parts):
            del manifest
            found = np.concatenate([np.load(part / "hits.npy") for part in parts], axis=1)
            np.save(folder / "hits.npy", found)
            cost = strength.add([json.loads((part / "cost.json").read_text()) for part in parts])
            made = records.of_attack(attack, found, config.epsilons, set_so, cost, **self._of(name, variant))
            write_json(folder / "records.json", made)
            LOG.info("%s %s: %s, %.0f s", name, variant, ", ".join(map(records.short, made)), cost["seconds"])

        artifact = f"attacks/{name}/{variant}/{attack}"
        blocks = self._blocks(self._eval_size(), STRONG_BLOCK)
        content = self._artifacts.make_in_parts(artifact, inputs, blocks, make, join)
        if content:
            self._publish()
        return content

    def transfer(self, name, variant, targets):
        """Makes images that break a model and shows them to all; leaves `transfers/<name>/<variant>/accuracies.json`.

        Args:
          name, variant: of the source.
          targets: list of (name, variant).
        """
        config, pipeline = self._config, self._pipeline
        eps = max(config.epsilons)
        inputs = {
            "weights": {f"{n}/{v}": pipeline.model(n, v) for n, v in targets},
            "split": pipeline.data.make(),
            "source": f"{name}/{variant}",
            "attack": TRANSFERRED,
            "eps": eps,
            "images": self._eval_size(),
            "seed": config.seed,
        }

        def make(folder, manifest):
            del manifest
            images, labels = self._test()
            x = to_float(images).numpy()
            source = pipeline.load(name, variant)
            batches = [slice(i, i + config.batch_size) for i in range(0, len(labels), config.batch_size)]
            made = [attacks.pgd(source, x[rows], labels[rows], eps, seed=config.seed) for rows in batches]
            adversarial, found = np.concatenate(made), {}
            for target, its_variant in targets:
                model = pipeline.load(target, its_variant)
                clean, right = (
                    strength.predicted(model, seen, config.batch_size) == labels for seen in (x, adversarial)
                )
                found[f"{target}/{its_variant}"] = int((clean & right).sum())
            write_json(folder / "accuracies.json", {"n": len(labels), "eps": eps, "correct": found})

        return self._artifacts.make(f"transfers/{name}/{variant}", inputs, make)

    def matrix(self, targets):
        """dict of source → dict of "n", "eps" and "correct" (dict of target → images); sources that were measured."""
        now = {f"{n}/{v}": self._weights(n, v) for n, v in targets}
        there = [source for source in now if self._holds(f"transfers/{source}", now)]
        return {source: self._read(f"transfers/{source}", "accuracies.json") for source in there}

    def verdict(self, name, variant):
        """Looks for masked gradients; leaves `verdicts/<name>/<variant>/facts.json`."""
        config, pipeline = self._config, self._pipeline
        n = min(VERDICT_IMAGES, self._eval_size())
        surrogate = config.surrogate if (name, variant) != (config.surrogate, "baseline") else None
        inputs = {
            "weights": pipeline.model(name, variant),
            "surrogate": surrogate and pipeline.model(surrogate, "baseline"),
            "split": pipeline.data.make(),
            "eps": max(config.epsilons),
            "images": n,
            "seed": config.seed,
        }

        def make(folder, manifest):
            del manifest
            images, labels = (column[:n] for column in self._test())
            source = None
            if surrogate:  # a copy: all variants of a name share one model
                shared = pipeline.load(surrogate, "baseline")
                source = keras.models.clone_model(shared)
                source.set_weights(shared.get_weights())
            facts = masking.measure(
                pipeline.load(name, variant),
                to_float(images),
                labels,
                max(config.epsilons),
                surrogate=source,
                batch_size=config.batch_size,
                seed=config.seed,
            )
            write_json(folder / "facts.json", facts)
            for check in judge(facts):
                if check.passed is False:
                    LOG.warning("%s %s is suspicious (%s): %s", name, variant, check.name, check.sentence)

        return self._artifacts.make(f"verdicts/{name}/{variant}", inputs, make)

    def facts(self, targets):
        """dict of model/variant → what `masking.measure` found, of those that were looked at."""
        now = {f"{n}/{v}": self._weights(n, v) for n, v in targets}
        there = [of for of, weights in now.items() if self._holds(f"verdicts/{of}", weights)]
        return {of: self._read(f"verdicts/{of}", "facts.json") for of in there}

    def test_samples(self):
        """`Samples` of all test images, clean."""
        images, labels, _ = self._pipeline.data.images["test"]
        return Samples(images, labels)
