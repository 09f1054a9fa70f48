"""What all contenders share, and tfadv; `peers` has the others.

Each class lives in a process of its own; heavy imports wait until it is made.
All of them attack the same network with the same weights, the same images and
labels, and all return float32 adversarial images (E, N, H, W, C) in numpy.
"""

import importlib.metadata
import pathlib
import resource
import sys

import numpy as np

CLASSES = 10


def images(n, size):
    """(float32 (N, size, size, 3) in [0, 1], int64 (N,)): smooth blots with grain, from a fixed seed."""
    rng = np.random.default_rng(0)
    blots = rng.uniform(0.1, 0.9, (n, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    x = np.clip(blots + rng.normal(0, 0.05, blots.shape), 0, 1).astype("float32")
    return x, rng.integers(0, CLASSES, n)


class Contender:
    """What all have in common.  Every public method is called from the parent and timed there as here."""

    package = None  # name on PyPI

    def version(self):
        return importlib.metadata.version(self.package)

    def prepare(self, model, size, n, weights):
        """Builds `model` for images of `size` pixels, loads the weights file, and keeps n images at hand."""
        self.size, (self.x, self.y) = size, images(n, size)
        with np.load(weights) as arrays:
            self.build(model, {path: arrays[path] for path in arrays.files})

    def peak_memory(self):
        """int, bytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Keras(Contender):
    """A Keras model, and what every contender on TensorFlow builds upon."""

    def __init__(self):
        import tfadv  # noqa: F401  before TensorFlow: the same oneDNN for all

    def build(self, model, weights):
        import tensorflow as tf

        from tfadv import models

        self.model = models.build(model, (self.size, self.size, 3), CLASSES)
        for variable in self.model.weights:
            variable.assign(weights[variable.path])
        self.tensors = tf.constant(self.x), tf.constant(self.y)


class Tfadv(Keras):
    package = "tfadv"

    def write_weights(self, model, size, path):
        """Random weights, for all contenders; returns the FLOPs of a forward pass.

        Small gammas make a network smooth enough that ten steps of PGD do not blow up the contenders' rounding.
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

    def fgsm(self, epsilons):
        from tfadv.attacks import fgsm

        return fgsm(self.model, *self.tensors, epsilons).numpy()

    def pgd(self, eps, steps):
        from tfadv.attacks import pgd

        return pgd(self.model, *self.tensors, [eps], steps=steps, random_start=False).numpy()

    def matmul(self, n=2048):
        """Multiplies two float32 matrices of n × n; 2 n³ floating-point operations."""
        import tensorflow as tf

        if not hasattr(self, "matrix"):
            self.matrix = tf.random.normal((n, n))
        (self.matrix @ self.matrix)[0, 0].numpy()

    # ---- training ---------------------------------------------------------------------------------------

    def prepare_training(self, images=0, precision="float32"):
        """A `Trainer`, a batch that stays in memory, and so many images to make epochs of."""
        from tfadv.datasets.batches import Samples
        from tfadv.training import Trainer

        self.trainer = Trainer(self.model, weight_decay=5e-4, precision=precision)
        rows = np.arange(images) % len(self.y)
        self.samples = Samples((255 * self.x[rows]).astype("uint8"), self.y[rows])
        self.held = Samples((255 * self.x).astype("uint8"), self.y)

    def train(self, steps):
        for _ in range(steps):
            sums = self.trainer.train_step(*self.tensors)
        return float(sums[0]) / len(self.y)

    def epochs(self, number, folder):
        """`Trainer.fit` as a run calls it: shuffle, cut, augment, step, callbacks, and one batch of validation."""
        from tfadv.datasets import AUGMENTATIONS

        self.trainer.fit(
            self.samples,
            self.held,
            epochs=number,
            batch_size=len(self.y),
            learning_rate=1e-3,
            patience=99,
            seed=0,
            log_dir=pathlib.Path(folder) / "log",
            augmentations=AUGMENTATIONS,
        )

    # ---- the surrogate's samples ------------------------------------------------------------------------

    def prepare_samples(self, n, data_dir):
        """n real images: CIFAR-10 where `data_dir` has it, else digits in three channels; returns which."""
        from tfadv.datasets import sources
        from tfadv.errors import UserError

        try:
            pool = sources.load("cifar10", data_dir, self.size)
        except UserError:
            pool = sources.load("digits", data_dir, self.size)
        rows = np.arange(n) % len(pool.labels)
        self.pool = np.broadcast_to(pool.images[rows], (n, *self.x.shape[1:])).copy(), pool.labels[rows]
        return pool.full_name

    def attack_samples(self):
        from tfadv import surrogate

        for _ in surrogate.perturbations(self.model, *self.pool, batch_size=len(self.y)):
            pass

    def generate(self, folder):
        """Writes the samples; returns their bytes."""
        import shutil

        from tfadv import surrogate

        target = pathlib.Path(folder) / "benchmark" / surrogate.VERSION
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        images, labels = self.pool
        shards = surrogate.shards({"train": len(labels)}, images.shape[1:])
        for shard in shards:
            rows = slice(shard.start, shard.stop)
            batches = surrogate.perturbations(self.model, images[rows], labels[rows], batch_size=len(self.y))
            numbers = np.arange(shard.start, shard.stop)
            surrogate.write_shard(target, "benchmark", shard, images[rows], labels[rows], numbers, batches)
        classes = [str(c) for c in range(CLASSES)]
        surrogate.write_metadata(target, "benchmark", shards, images.shape[1:], classes, "benchmark")
        return sum(path.stat().st_size for path in target.glob("*.tfrecord-*"))

    def read(self, folder, epsilons):
        """Reads the samples back, as retraining does."""
        from tfadv import surrogate

        path = pathlib.Path(folder) / "benchmark" / surrogate.VERSION
        self.samples, _ = surrogate.read(path, "train", (0.0, *epsilons))


def flops(model):
    """int, floating-point operations of the convolutions and matrix products of one image's forward pass.

    A product with the zeros around an image is counted, as the field does.
    """
    total = 0
    for layer in model.layers:
        if layer.weights and hasattr(layer, "kernel"):
            places = np.prod(layer.output.shape[1:-1], dtype=int)
            total += 2 * int(places) * int(np.prod(layer.kernel.shape))
    return total
