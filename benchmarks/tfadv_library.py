"""tfadv itself as a library under measurement: attacks, training and stored samples."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.libraries import CLASSES, KerasLibrary

NAME = "benchmark"  # of the stored samples


class Tfadv(KerasLibrary):
    """tfadv."""

    distribution = "tfadv"

    def version(self) -> str:
        """The version of the checkout, which need not be the installed one."""
        import tfadv

        return tfadv.__version__

    def write_weights(self, model: str, size: int, path: str) -> int:
        """Writes random weights for all libraries; returns the floating-point operations of a forward pass.

        Small gammas make the network so smooth that ten steps of PGD do not amplify the libraries' rounding.
        """
        import keras

        from tfadv import models

        keras.utils.set_random_seed(0)
        built, rng = models.build(model, (size, size, 3), CLASSES), np.random.default_rng(0)
        ranges = {"gamma": (0.05, 0.2), "moving_variance": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3)}
        for variable in built.weights:
            if variable.name in ranges:
                variable.assign(rng.uniform(*ranges[variable.name], variable.shape))
        np.savez(path, **{variable.path: variable.numpy() for variable in built.weights})
        return flops(built)

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        from tfadv.attacks import FGSM

        return FGSM()(self.model, *self.tensors, epsilons, batch_size=len(self.y)).numpy()

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`."""
        from tfadv.attacks import PGD

        attack = PGD(steps=steps, random_start=False, early_stop=False)
        return attack(self.model, *self.tensors, [eps], batch_size=len(self.y)).numpy()

    def matmul(self, n: int) -> None:
        """Multiplies two float32 matrices of n × n: 2 n³ floating-point operations."""
        import tensorflow as tf

        if not hasattr(self, "matrix"):
            self.matrix = tf.random.normal((n, n))
        (self.matrix @ self.matrix)[0, 0].numpy()

    # === Training ===

    def prepare_training(self, images: int = 0, precision: str = "float32") -> None:
        """Builds a `Trainer`, and training samples for `epochs`.

        Args:
          images: number of training samples, repetitions of the images in memory.
          precision: as in `Trainer`.
        """
        from tfadv.datasets.batches import Samples
        from tfadv.objectives import OBJECTIVES
        from tfadv.training import Trainer

        objective = OBJECTIVES["cross_entropy"]
        self.trainer = Trainer(self.model, weight_decay=5e-4, objective=objective, precision=precision)
        rows, pixels = np.arange(images) % len(self.y), (255 * self.x).astype("uint8")
        self.samples = Samples(pixels[rows], self.y[rows])
        self.validation = Samples(pixels, self.y)

    def train(self, steps: int) -> float:
        """Takes training steps on the batch in memory; returns the last mean loss."""
        for _ in range(steps):
            sums = self.trainer.train_step(*self.tensors)
        return float(sums[0]) / len(self.y)

    def epochs(self, number: int, folder: str) -> None:
        """Runs `Trainer.fit` as the command does: shuffling, augmentation, TensorBoard, a batch of validation."""
        from tfadv.datasets import AUGMENTATIONS
        from tfadv.training import TrainingLog, TrainingSettings

        settings = TrainingSettings(
            epochs=number,
            batch_size=len(self.y),
            learning_rate=1e-3,
            patience=99,
            augmentations=AUGMENTATIONS,
        )
        self.trainer.fit(self.samples, self.validation, settings, log=TrainingLog(pathlib.Path(folder) / "log"))

    # === Stored samples ===

    def prepare_samples(self, n: int, data_dir: str) -> str:
        """Loads n real images: CIFAR-10 if `data_dir` has it, otherwise digits in three channels; returns its name."""
        from tfadv.datasets import sources
        from tfadv.errors import UserError

        try:
            dataset = sources.load("cifar10", data_dir, self.size)
        except UserError:
            dataset = sources.load("digits", data_dir, self.size)
        rows = np.arange(n) % len(dataset.labels)
        self.images = np.broadcast_to(dataset.images[rows], (n, *self.x.shape[1:])).copy()
        self.labels = dataset.labels[rows]
        return dataset.full_name

    def attack_samples(self) -> None:
        """Computes the perturbations without writing them."""
        for _ in self._perturbations(slice(None)):
            pass

    def generate(self, folder: str) -> int:
        """Computes and writes the samples; returns the bytes of their files."""
        from tfadv.datasets import stored

        target = self._sample_folder(folder)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shape = self.images.shape[1:]
        files = stored.sample_files({"train": len(self.labels)}, shape)
        for file in files:
            rows = slice(file.start, file.stop)
            samples = self.images[rows], self.labels[rows], np.arange(file.start, file.stop)
            stored.write_file(target, NAME, file, samples, self._perturbations(rows))
        class_names = [str(c) for c in range(CLASSES)]
        stored.write_metadata(target, NAME, files, shape=shape, class_names=class_names, description=NAME)
        return sum(path.stat().st_size for path in target.glob("*.tfrecord-*"))

    def read(self, folder: str, epsilons: Sequence[float]) -> None:
        """Reads the samples, which then are the training samples."""
        from tfadv.datasets import stored

        self.samples, _ = stored.read(self._sample_folder(folder), "train", (0.0, *epsilons))

    def _perturbations(self, rows: slice) -> Iterator[np.ndarray]:
        from tfadv.experiments.stored_samples import perturbations

        return perturbations(self.model, self.images[rows], self.labels[rows], batch_size=len(self.y))

    @staticmethod
    def _sample_folder(folder: str) -> pathlib.Path:
        from tfadv.datasets import stored

        return pathlib.Path(folder) / NAME / stored.VERSION


def flops(model: Any) -> int:
    """The floating-point operations of the convolutions and matrix products of one image's forward pass.

    Products with the zeros around an image are counted, as is customary.

    Args:
      model: a functional Keras model.
    """
    total = 0
    for layer in model.layers:
        if layer.weights and hasattr(layer, "kernel"):
            positions = np.prod(layer.output.shape[1:-1], dtype=int)
            total += 2 * int(positions) * int(np.prod(layer.kernel.shape))
    return total
