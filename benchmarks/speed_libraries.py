"""The libraries that `speed` times.

Each imports what it needs when its class is instantiated, in a process of its own.  All attack the same network with
the same weights, images and labels, and return float32 adversarial images (E, N, H, W, C) in NumPy.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10


class Case(NamedTuple):
    """What all libraries attack and train.

    Attributes:
      model: a name in `tfadv.models.MODELS`.
      image_size: pixels per side.
      batch_size: number of images.
      weights: path of a .npz file with the weights of the Keras model by their paths; `Tfadv` writes it.
    """

    model: str
    image_size: int
    batch_size: int
    weights: str


def images(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random patches with noise, always the same: float32 (N, size, size, 3) in [0, 1] and labels int64 (N,)."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0.1, 0.9, (n, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    x = np.clip(patches + rng.normal(0, 0.05, patches.shape), 0, 1).astype("float32")
    return x, rng.integers(0, CLASSES, n)


class Library:
    """A library; `fgsm` and `pgd` attack the images of the case, `train` takes a step and returns the mean loss."""

    distribution: str  # its name on PyPI
    module: str  # without which it cannot run

    def __init__(self, case: Case) -> None:
        """Takes the case."""
        self.case, (self.x, self.y) = case, images(case.batch_size, case.image_size)

    def version(self) -> str:
        """Its name and its version."""
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """FGSM at each eps: float32 (E, N, H, W, C)."""
        raise NotImplementedError

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """PGD in L-infinity, steps of eps / 4 from the image itself: float32 (1, N, H, W, C)."""
        raise NotImplementedError


class KerasLibrary(Library):
    """A library that attacks the Keras model, with oneDNN."""

    def __init__(self, case: Case) -> None:
        """Builds the model with the weights in the file."""
        super().__init__(case)
        import tfadv  # noqa: F401  enables oneDNN, before TensorFlow

        import tensorflow as tf

        from tfadv import models

        self.model = models.build(case.model, self.x.shape[1:], CLASSES)
        if isinstance(self, Tfadv):
            write_weights(self.model, case.weights)
        with np.load(case.weights) as weights:
            for variable in self.model.weights:
                variable.assign(weights[variable.path])
        self.tensors = tf.constant(self.x), tf.constant(self.y)


def write_weights(model: Any, path: str) -> None:
    """Writes random weights; small gammas keep ten steps of PGD from amplifying the libraries' rounding."""
    rng = np.random.default_rng(0)
    ranges = {"gamma": (0.05, 0.2), "moving_variance": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3)}
    drawn = {v.path: rng.uniform(*ranges[v.name], v.shape) for v in model.weights if v.name in ranges}
    np.savez(path, **({v.path: v.numpy() for v in model.weights} | drawn))


class Tfadv(KerasLibrary):
    """tfadv."""

    distribution, module = "tfadv", "tensorflow"
    trained: str | None = None  # the defense that the trainer is built for

    def version(self) -> str:
        """The version of the checkout, which need not be the installed one."""
        import tensorflow as tf

        import tfadv

        return f"tfadv {tfadv.__version__} with TensorFlow {tf.__version__}"

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        from tfadv.attacks import FGSM

        return FGSM()(self.model, *self.tensors, epsilons, batch_size=len(self.y)).numpy()

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`; without early stopping, which other libraries don't have."""
        from tfadv.attacks import PGD

        attack = PGD(steps=steps, random_start=False, early_stop=False)
        return attack(self.model, *self.tensors, [eps], batch_size=len(self.y)).numpy()

    def train(self) -> float:
        """A training step on clean images; returns the mean loss."""
        return self.train_defense("")

    def train_defense(self, defense: str) -> float:
        """A training step of a defense at eps 0.03; returns the mean loss."""
        from tfadv import specs
        from tfadv.defenses import DEFENSES
        from tfadv.training import Trainer

        if self.trained != defense:
            ((name, settings),) = specs.split_specs(defense or "control", DEFENSES)
            built = specs.build_with(name, settings, DEFENSES)
            self.trained, self.trainer = defense, Trainer(self.model, weight_decay=5e-4, defense=built)
        return float(self.trainer.train_step(*self.tensors, 0.03)[0]) / len(self.y)


class CleverHans(KerasLibrary):
    """https://github.com/cleverhans-lab/cleverhans."""

    distribution = module = "cleverhans"

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        x, y = self.tensors
        return np.stack(
            [fast_gradient_method(self.model, x, e, np.inf, clip_min=0.0, clip_max=1.0, y=y) for e in epsilons]
        )

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`."""
        from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

        x, y = self.tensors
        settings = dict(clip_min=0.0, clip_max=1.0, y=y, rand_init=False, sanity_checks=False)
        return projected_gradient_descent(self.model, x, eps, eps / 4, steps, np.inf, **settings).numpy()[None]


class Art(KerasLibrary):
    """https://github.com/Trusted-AI/adversarial-robustness-toolbox."""

    distribution, module = "adversarial-robustness-toolbox", "art"

    def __init__(self, case: Case) -> None:
        """Wraps the model."""
        super().__init__(case)
        import keras
        from art.estimators.classification import TensorFlowV2Classifier

        self.classifier = TensorFlowV2Classifier(
            model=self.model,
            nb_classes=CLASSES,
            input_shape=self.x.shape[1:],
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            clip_values=(0.0, 1.0),
        )

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        from art.attacks.evasion import FastGradientMethod

        attacks = (FastGradientMethod(self.classifier, eps=e, batch_size=len(self.y)) for e in epsilons)
        return np.stack([attack.generate(self.x, self.y) for attack in attacks])

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`."""
        from art.attacks.evasion import ProjectedGradientDescent

        settings = dict(eps=eps, eps_step=eps / 4, max_iter=steps, batch_size=len(self.y), verbose=False)
        return ProjectedGradientDescent(self.classifier, **settings).generate(self.x, self.y)[None]


class Foolbox(KerasLibrary):
    """https://github.com/bethgelab/foolbox."""

    distribution = module = "foolbox"

    def __init__(self, case: Case) -> None:
        """Wraps the model."""
        super().__init__(case)
        import foolbox

        self.wrapped = foolbox.TensorFlowModel(self.model, bounds=(0, 1))

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        import foolbox

        attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
        return np.stack(attack(self.wrapped, *self.tensors, epsilons=list(epsilons))[1])

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`."""
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=steps, random_start=False)
        return np.stack(attack(self.wrapped, *self.tensors, epsilons=[eps])[1])


class Torchattacks(Library):
    """https://github.com/Harry24k/adversarial-attacks-pytorch, in the memory layout that is fastest on a CPU."""

    distribution = module = "torchattacks"

    def __init__(self, case: Case) -> None:
        """Builds the network in PyTorch, with the weights in the file and on all cores."""
        super().__init__(case)
        import torch

        from benchmarks import torch_resnet

        torch.set_num_threads(os.cpu_count() or 1)
        with np.load(case.weights) as weights:
            self.model = torch_resnet.build(case.model, self.x.shape[-1], CLASSES, dict(weights)).eval()
        x = torch.tensor(self.x.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
        self.tensors = x, torch.tensor(self.y)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def version(self) -> str:
        """The versions of torchattacks and PyTorch."""
        return f"{super().version()} with PyTorch {importlib.metadata.version('torch')}"

    def fgsm(self, epsilons: Sequence[float]) -> np.ndarray:
        """See `Library.fgsm`."""
        import torchattacks

        adversarial = [torchattacks.FGSM(self.model, eps=e)(*self.tensors) for e in epsilons]
        return np.stack([x.numpy().transpose(0, 2, 3, 1) for x in adversarial])

    def pgd(self, eps: float, steps: int) -> np.ndarray:
        """See `Library.pgd`."""
        import torchattacks

        attack = torchattacks.PGD(self.model, eps=eps, alpha=eps / 4, steps=steps, random_start=False)
        return attack(*self.tensors).numpy().transpose(0, 2, 3, 1)[None]

    def train(self) -> float:
        """A training step on clean images; returns the mean loss."""
        import torch

        x, y = self.tensors
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


LIBRARIES: dict[str, type[Library]] = {
    "tfadv": Tfadv,
    "torchattacks": Torchattacks,
    "CleverHans": CleverHans,
    "Foolbox": Foolbox,
    "ART": Art,
}


def installed(names: Sequence[str]) -> list[str]:
    """Those of the names whose libraries can run here, each once."""
    return [name for name in dict.fromkeys(names) if importlib.util.find_spec(LIBRARIES[name].module)]
