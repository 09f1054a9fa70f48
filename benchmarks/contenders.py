"""Who is measured.  Each class lives in a process of its own; heavy imports wait until it is made.

All of them attack the same network with the same weights, the same images and
labels, and all return float32 adversarial images (E, N, H, W, C) in numpy.
"""

import importlib.metadata
import os
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
        import tensorflow as tf

        from tfadv.datasets.batches import Samples
        from tfadv.models.accelerate import accelerated
        from tfadv.training import Trainer

        self.trainer = Trainer(self.model, weight_decay=5e-4, precision=precision)
        self.compiled = accelerated(self.model, precision)
        self.compiled.make_train_function()
        self.resident = iter(tf.data.Dataset.from_tensors(self.tensors).repeat())
        rows = np.arange(images) % len(self.y)
        self.samples = Samples((255 * self.x[rows]).astype("uint8"), self.y[rows])
        self.held = Samples((255 * self.x).astype("uint8"), self.y)

    def train(self, steps):
        for _ in range(steps):
            logs = self.compiled.train_function(self.resident)
        return float(logs["loss"])

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
        surrogate.write(
            target,
            "benchmark",
            {"train": (*self.pool, np.arange(len(self.pool[1])))},
            [str(c) for c in range(CLASSES)],
            lambda x, y, progress: surrogate.perturbations(self.model, x, y, batch_size=len(self.y), progress=progress),
            "benchmark",
        )
        return sum(path.stat().st_size for path in target.glob("*.tfrecord-*"))

    def read(self, folder, epsilons):
        """Reads the samples back, as retraining does."""
        from tfadv import surrogate

        path = pathlib.Path(folder) / "benchmark" / surrogate.VERSION
        self.samples, _ = surrogate.read(path, "train", (0.0, *epsilons))


class CleverHans(Keras):
    package = "cleverhans"

    def fgsm(self, epsilons):
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        x, y = self.tensors
        made = [fast_gradient_method(self.model, x, e, np.inf, clip_min=0.0, clip_max=1.0, y=y) for e in epsilons]
        return np.stack(made)

    def pgd(self, eps, steps):
        from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

        x, y = self.tensors
        settings = dict(clip_min=0.0, clip_max=1.0, y=y, rand_init=False, sanity_checks=False)
        return projected_gradient_descent(self.model, x, eps, eps / 4, steps, np.inf, **settings).numpy()[None]


class Art(Keras):
    package = "adversarial-robustness-toolbox"

    def build(self, model, weights):
        import keras
        from art.estimators.classification import TensorFlowV2Classifier

        super().build(model, weights)
        self.classifier = TensorFlowV2Classifier(
            model=self.model,
            nb_classes=CLASSES,
            input_shape=self.x.shape[1:],
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
        )

    def fgsm(self, epsilons):
        from art.attacks.evasion import FastGradientMethod

        attacks = (FastGradientMethod(self.classifier, eps=e, batch_size=len(self.y)) for e in epsilons)
        return np.stack([attack.generate(self.x, self.y) for attack in attacks])

    def pgd(self, eps, steps):
        from art.attacks.evasion import ProjectedGradientDescent

        settings = dict(eps=eps, eps_step=eps / 4, max_iter=steps, batch_size=len(self.y), verbose=False)
        return ProjectedGradientDescent(self.classifier, **settings).generate(self.x, self.y)[None]


class Foolbox(Keras):
    package = "foolbox"

    def build(self, model, weights):
        import foolbox

        super().build(model, weights)
        self.wrapped = foolbox.TensorFlowModel(self.model, bounds=(0, 1))

    def fgsm(self, epsilons):
        import foolbox

        attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
        return np.stack(attack(self.wrapped, *self.tensors, epsilons=list(epsilons))[1])

    def pgd(self, eps, steps):
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=steps, random_start=False)
        return np.stack(attack(self.wrapped, *self.tensors, epsilons=[eps])[1])


class Torch(Contender):
    """torchattacks, and a training loop of PyTorch's own, in the memory layout that is fastest on a CPU."""

    package = "torchattacks"

    def __init__(self):
        import torch

        torch.set_num_threads(os.cpu_count())

    def version(self):
        return f"{super().version()}, PyTorch {importlib.metadata.version('torch')}"

    def build(self, model, weights):
        import torch

        from benchmarks import torch_resnet

        self.model = torch_resnet.build(model, self.x.shape[1:], CLASSES, weights).eval()
        x = torch.tensor(self.x.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
        self.tensors = x, torch.tensor(self.y)

    def fgsm(self, epsilons):
        import torchattacks

        made = [torchattacks.FGSM(self.model, eps=e)(*self.tensors) for e in epsilons]
        return np.stack([image.numpy().transpose(0, 2, 3, 1) for image in made])

    def pgd(self, eps, steps):
        import torchattacks

        attack = torchattacks.PGD(self.model, eps=eps, alpha=eps / 4, steps=steps, random_start=False)
        return attack(*self.tensors).numpy().transpose(0, 2, 3, 1)[None]

    def prepare_training(self, images=0):
        import torch

        self.model.train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        rows = torch.arange(images) % len(self.y)
        self.pool = (255 * self.tensors[0]).to(torch.uint8)[rows], self.tensors[1][rows]

    def _step(self, x, y):
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def train(self, steps):
        for _ in range(steps):
            loss = self._step(*self.tensors)
        return loss

    def epochs(self, number, folder):
        """A plain loop over images in memory: shuffle, cast, flip and turn half of them, add noise, step."""
        import torch
        from torch.nn import functional

        images, labels = self.pool
        for _ in range(number):
            for rows in torch.randperm(len(labels)).split(len(self.y)):
                x = images[rows].float() / 255
                half = len(rows) // 2
                angle = torch.empty(half).uniform_(-0.17, 0.17)
                flip = torch.randint(0, 2, (half,)) * 2 - 1
                zero = torch.zeros(half)
                turn = torch.stack([flip * angle.cos(), -angle.sin(), zero, flip * angle.sin(), angle.cos(), zero], 1)
                grid = functional.affine_grid(turn.view(half, 2, 3), list(x[:half].shape), align_corners=False)
                part = functional.grid_sample(x[:half], grid, padding_mode="border", align_corners=False)
                part = (part + 0.1 * (torch.rand(half, 1, 1, 1) - 0.5) + 0.02 * torch.randn_like(part)).clamp(0, 1)
                x = torch.cat([part, x[half:]]).contiguous(memory_format=torch.channels_last)
                self._step(x, labels[rows])


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


ALL = {
    "tfadv": Tfadv,
    "torchattacks": Torch,
    "CleverHans": CleverHans,
    "Foolbox": Foolbox,
    "ART": Art,
}
