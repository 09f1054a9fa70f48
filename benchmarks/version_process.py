"""The process of one version of tfadv in `against_old`: reads requests from stdin and times what they ask for.

The file is run by its path and imports nothing of this folder, so that the same
code times any version: that of 0.2 (attacks are dataclasses), or else of 0.1
(attacks are functions).  A request and its answer are one line of JSON each.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

EPSILONS = [0.01, 0.02, 0.03]
STEPS = 10


class Tasks:
    """What is timed, but for what differs between the versions.

    A task is a method without arguments that returns an array to compare between the versions.
    """

    def __init__(self, model: str, batch: int, inputs: str, folder: str) -> None:
        """Builds the models.

        Args:
          model: a name in `tfadv.models.MODELS`.
          batch: images per batch.
          inputs: a .npz file with "x", float32 (N, H, W, C), and "eps", the eps of `pgd_early_stop`.
          folder: for stored samples.
        """
        import tensorflow as tf

        with np.load(inputs) as arrays:
            x, self.eps = arrays["x"], float(arrays["eps"])
        self.batch, self.folder = batch, pathlib.Path(folder)
        self.model = self._build(model, x.shape[1:])
        # Labels are what the model predicts, and no class is preferred: otherwise attacks that stop early would have
        # nothing to do, or nothing to stop.
        logits = self.model.predict(x, batch_size=batch, verbose=0)
        self.model.get_layer("logits").bias.assign_sub(logits.mean(axis=0))
        labels = np.argmax(logits - logits.mean(axis=0), axis=1)
        self.x, self.y = tf.constant(x[:batch]), tf.constant(labels[:batch])
        self.images, self.labels, self.ids = (255 * x).astype(np.uint8), labels, np.arange(len(x))
        self.trainer = self.new_trainer(self._build(model, x.shape[1:]))

    def _build(self, name: str, shape: tuple[int, ...]) -> Any:
        """A model whose weights depend on nothing but their paths and shapes."""
        from tfadv import models

        model = models.build(name, shape, 10)
        ranges = {"gamma": (0.5, 1.0), "moving_variance": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3)}
        for variable in model.weights:
            rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
            if variable.name in ranges:
                values = rng.uniform(*ranges[variable.name], variable.shape)
            else:
                values = rng.normal(0, np.sqrt(2 / max(1, np.prod(variable.shape[:-1]))), variable.shape)
            variable.assign(values)
        return model

    # === Different in the versions ===

    def new_trainer(self, model: Any) -> Any:
        """A `Trainer` of the model with the cross-entropy."""
        raise NotImplementedError

    def fgsm(self) -> np.ndarray:
        """FGSM at three eps."""
        raise NotImplementedError

    def pgd(self) -> np.ndarray:
        """PGD of ten steps, all of them for each image."""
        raise NotImplementedError

    def pgd_early_stop(self) -> np.ndarray:
        """PGD of ten steps that leaves an image alone once it is adversarial."""
        raise NotImplementedError

    def perturbations(self) -> Iterable[np.ndarray]:
        """The perturbations to store, in batches."""
        raise NotImplementedError

    def write(self, folder: pathlib.Path, batches: Iterable[np.ndarray]) -> None:
        """Writes the perturbations and their images into one TFRecord file."""
        raise NotImplementedError

    def encode(self, perturbations: np.ndarray) -> Iterable[bytes]:
        """The images and perturbations as they are written."""
        raise NotImplementedError

    # === The same in the versions ===

    def training_step(self) -> np.ndarray:
        """One training step; its mean loss."""
        return np.array(float(self.trainer.train_step(self.x, self.y)[0]) / self.batch)

    def stored_samples(self) -> np.ndarray:
        """Computes and writes stored samples; bytes per sample."""
        target = self.folder / "samples"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        self.write(target, self.perturbations())
        return np.array(sum(path.stat().st_size for path in target.iterdir()) / len(self.labels))

    def png(self) -> np.ndarray:
        """Encodes the images as PNG; bytes per sample.  Constant perturbations take next to no time."""
        return self._encoded_bytes(np.zeros(self.images.shape, np.int8))

    def encoding(self) -> np.ndarray:
        """Encodes images and random signs as perturbations; bytes per sample."""
        signs = np.random.default_rng(0).choice(np.array([-127, 127], np.int8), self.images.shape)
        return self._encoded_bytes(signs)

    def _encoded_bytes(self, perturbations: np.ndarray) -> np.ndarray:
        return np.array(sum(len(sample) for sample in self.encode(perturbations)) / len(self.labels))


class NewTasks(Tasks):
    """tfadv 0.2."""

    def new_trainer(self, model: Any) -> Any:
        """See `Tasks.new_trainer`."""
        from tfadv.objectives import OBJECTIVES
        from tfadv.training import Trainer

        return Trainer(model, weight_decay=5e-4, objective=OBJECTIVES["cross_entropy"])

    def fgsm(self) -> np.ndarray:
        """See `Tasks.fgsm`."""
        from tfadv.attacks import FGSM

        return FGSM()(self.model, self.x, self.y, EPSILONS, batch_size=self.batch).numpy()

    def pgd(self) -> np.ndarray:
        """See `Tasks.pgd`."""
        return self._pgd(EPSILONS[-1], early_stop=False)

    def pgd_early_stop(self) -> np.ndarray:
        """See `Tasks.pgd_early_stop`."""
        return self._pgd(self.eps, early_stop=True)

    def _pgd(self, eps: float, *, early_stop: bool) -> np.ndarray:
        from tfadv.attacks import PGD

        attack = PGD(steps=STEPS, early_stop=early_stop)
        return attack(self.model, self.x, self.y, [eps], batch_size=self.batch).numpy()

    def perturbations(self) -> Iterable[np.ndarray]:
        """See `Tasks.perturbations`."""
        from tfadv.experiments.stored_samples import perturbations

        return perturbations(self.model, self.images, self.labels, batch_size=self.batch)

    def write(self, folder: pathlib.Path, batches: Iterable[np.ndarray]) -> None:
        """See `Tasks.write`."""
        from tfadv.datasets import stored

        file = stored.SampleFile("train", 0, 1, 0, len(self.labels))
        stored.write_file(folder, "benchmark", file, (self.images, self.labels, self.ids), batches)

    def encode(self, perturbations: np.ndarray) -> Iterable[bytes]:
        """See `Tasks.encode`."""
        from tfadv.datasets import stored

        return stored.encode(self.images, perturbations, self.labels, self.ids)


class OldTasks(Tasks):
    """tfadv 0.1."""

    def new_trainer(self, model: Any) -> Any:
        """See `Tasks.new_trainer`."""
        from tfadv.training import Trainer

        return Trainer(model, weight_decay=5e-4)

    def fgsm(self) -> np.ndarray:
        """See `Tasks.fgsm`."""
        from tfadv.attacks import fgsm

        return fgsm(self.model, self.x, self.y, EPSILONS).numpy()

    def pgd(self) -> np.ndarray:
        """See `Tasks.pgd`."""
        from tfadv.attacks import pgd

        return pgd(self.model, self.x, self.y, [EPSILONS[-1]], steps=STEPS).numpy()

    def pgd_early_stop(self) -> np.ndarray:
        """See `Tasks.pgd_early_stop`."""
        from tfadv.attacks import pgd

        return pgd(self.model, self.x, self.y, [self.eps], steps=STEPS, until_broken=True).numpy()

    def perturbations(self) -> Iterable[np.ndarray]:
        """See `Tasks.perturbations`."""
        from tfadv.surrogate import perturbations

        return perturbations(self.model, self.images, self.labels, batch_size=self.batch)

    def write(self, folder: pathlib.Path, batches: Iterable[np.ndarray]) -> None:
        """See `Tasks.write`."""
        from tfadv import surrogate

        file = surrogate.Shard("train", 0, 1, 0, len(self.labels))
        surrogate.write_shard(folder, "benchmark", file, self.images, self.labels, self.ids, batches)

    def encode(self, perturbations: np.ndarray) -> Iterable[bytes]:
        """See `Tasks.encode`."""
        from tfadv.encoding import encode

        return encode(self.images, perturbations, self.labels, self.ids)


def start(checkout: str, **settings: Any) -> tuple[Tasks, dict[str, str]]:
    """The tasks of the version in a checkout, and a dict with "version" and "api".

    Raises:
      RuntimeError: `import tfadv` finds another tfadv.
    """
    import tfadv

    location = pathlib.Path(str(tfadv.__file__)).resolve()
    if not location.is_relative_to(pathlib.Path(checkout).resolve()):
        raise RuntimeError(f"tfadv is imported from {location}, not from {checkout}.")
    try:
        from tfadv.attacks import FGSM  # noqa: F401
    except ImportError:
        return OldTasks(**settings), {"version": tfadv.__version__, "api": "0.1"}
    return NewTasks(**settings), {"version": tfadv.__version__, "api": "0.2"}


def timed(task: Callable[[], Any], least_seconds: float) -> float:
    """Mean seconds per call, of one call or as many as take so many seconds."""
    started, calls, passed = time.perf_counter(), 0, 0.0
    while calls == 0 or passed < least_seconds:
        task()
        calls, passed = calls + 1, time.perf_counter() - started
    return passed / calls


def main() -> None:
    """Answers requests: "start" first, then "result" (saves what a task returns) and "time"."""
    del sys.path[0]  # this folder, whose modules no version may import
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not disturb the answers
    tasks: Tasks
    for line in sys.stdin:
        request = json.loads(line)
        kind = request.pop("kind")
        answer: dict[str, Any] = {}
        try:
            if kind == "start":
                tasks, answer = start(**request)
            elif kind == "result":
                np.save(request["path"], getattr(tasks, request["task"])())
            else:
                answer = {"seconds": timed(getattr(tasks, request["task"]), request["least_seconds"])}
        except Exception as error:  # the parent reports it
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
