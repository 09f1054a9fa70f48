"""The libraries that `strength` compares: tfadv on the Keras model, the others on the same network in PyTorch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TARGETS = 9  # of APGD-T and FAB-T
SIMPLE = ("pgd", "mifgsm")
PARTS = ("apgd-ce", "apgd-t", "fab", "fab-t", "square")  # of AutoAttack
ATTACKS = (*SIMPLE, *PARTS, "autoattack")


class Task(NamedTuple):
    """What all libraries attack.

    Attributes:
      name: the model's name in `tfadv.models.MODELS`.
      model: the Keras model.
      x: float32 (N, H, W, C) in [0, 1].
      y: int64 (N,).
      batch_size: images at a time.
      seed: of the attacks' random numbers.
    """

    name: str
    model: Any
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    seed: int


class Effort(NamedTuple):
    """How long an attack may take: steps of a gradient attack, queries of Square Attack."""

    steps: int
    queries: int


class StrengthLibrary:
    """A library that attacks the images of a task.

    Attributes:
      module: the module without which it cannot run.
      attacks: the names in `ATTACKS` that it knows.
    """

    module: str
    attacks: tuple[str, ...]

    def __init__(self, task: Task) -> None:
        """Takes the task."""
        self.task = task

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """The adversarial images of the first n images, float32 (n, H, W, C), at most eps away in L-infinity."""
        raise NotImplementedError

    def correct(self, images: np.ndarray) -> np.ndarray:
        """bool (N,): which images, float32 (N, H, W, C), the network that this library attacks classifies correctly."""
        raise NotImplementedError


class Tfadv(StrengthLibrary):
    """tfadv itself."""

    module, attacks = "tfadv", ATTACKS

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """See `StrengthLibrary.attack`."""
        from tfadv.attacks import MIFGSM, PGD, Attack, AutoAttack

        attack: Attack
        if name == "pgd":
            attack = PGD(steps=effort.steps)
        elif name == "mifgsm":
            attack = MIFGSM(steps=effort.steps)
        else:
            attack = AutoAttack(steps=effort.steps, queries=effort.queries, targets=TARGETS)
            if name != "autoattack":
                attack = dataclasses.replace(attack, attacks=(name,))
        task = self.task
        return attack(task.model, task.x[:n], task.y[:n], eps, seed=task.seed, batch_size=task.batch_size).numpy()

    def correct(self, images: np.ndarray) -> np.ndarray:
        """See `StrengthLibrary.correct`."""
        from tfadv.evaluation import evaluate

        return evaluate(self.task.model, images, self.task.y, None, batch_size=self.task.batch_size).clean_correct


class _TorchLibrary(StrengthLibrary):
    """The same network in PyTorch, in the memory layout that is fastest on a CPU."""

    def __init__(self, task: Task) -> None:
        import torch

        from benchmarks import torch_resnet

        super().__init__(task)
        torch.set_num_threads(os.cpu_count() or 1)
        weights = {v.path: v.numpy() for v in task.model.weights}
        self.classes = task.model.output_shape[-1]
        self.network = torch_resnet.build(task.name, task.x.shape[-1], self.classes, weights).eval()
        self.x, self.y = _channels_last(task.x), torch.tensor(task.y)

    def correct(self, images: np.ndarray) -> np.ndarray:
        """See `StrengthLibrary.correct`."""
        import torch

        with torch.no_grad():
            classes = [self.network(batch).argmax(1) for batch in _channels_last(images).split(self.task.batch_size)]
        return torch.cat(classes).eq(self.y).numpy()

    def in_batches(self, attack: Callable, n: int) -> np.ndarray:
        """Calls `attack` with images and labels, batch after batch; the adversarial images (n, H, W, C)."""
        import torch

        torch.manual_seed(self.task.seed)
        size = self.task.batch_size
        batches = zip(self.x[:n].split(size), self.y[:n].split(size))
        return torch.cat([attack(x, y) for x, y in batches]).detach().numpy().transpose(0, 2, 3, 1)


class _ContiguousTorchLibrary(_TorchLibrary):
    """For libraries that call `view` on gradients, which needs contiguous images: only the network is channels_last."""

    def __init__(self, task: Task) -> None:
        import torch

        super().__init__(task)
        network = self.network

        class ChannelsLast(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.contiguous(memory_format=torch.channels_last)

            @staticmethod
            def backward(ctx, grad):
                return grad.contiguous()

        class Contiguous(torch.nn.Module):
            def forward(self, x):
                return network(ChannelsLast.apply(x))

        self.contiguous_network = Contiguous().eval()
        self.x = self.x.contiguous()


class AutoAttack(_ContiguousTorchLibrary):
    """https://github.com/fra31/auto-attack."""

    module, attacks = "autoattack", (*PARTS, "autoattack")

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """See `StrengthLibrary.attack`."""
        from autoattack import AutoAttack

        settings = dict(norm="Linf", version="standard", device="cpu", verbose=False)
        attack = AutoAttack(self.contiguous_network, eps=eps, seed=self.task.seed, **settings)
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter = part.n_iter_orig = effort.steps
        attack.square.n_queries = effort.queries
        if name != "autoattack":
            attack.attacks_to_run = [name]
        adversarial = attack.run_standard_evaluation(self.x[:n], self.y[:n], bs=self.task.batch_size)
        return adversarial.numpy().transpose(0, 2, 3, 1)


class Torchattacks(_TorchLibrary):
    """https://github.com/Harry24k/adversarial-attacks-pytorch; its AutoAttack always takes all steps and queries."""

    module, attacks = "torchattacks", ATTACKS

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """See `StrengthLibrary.attack`."""
        import torchattacks as ta

        model, classes, steps = self.network, self.classes, effort.steps
        once = dict(eps=eps, n_restarts=1, seed=self.task.seed)
        attack = {
            "pgd": lambda: ta.PGD(model, eps=eps, alpha=eps / 4, steps=steps),
            "mifgsm": lambda: ta.MIFGSM(model, eps=eps, alpha=eps / steps, steps=steps),
            "apgd-ce": lambda: ta.APGD(model, steps=steps, loss="ce", **once),
            "apgd-t": lambda: ta.APGDT(model, steps=steps, n_classes=classes, **once),
            "fab": lambda: ta.FAB(model, steps=steps, n_classes=classes, **once),
            "fab-t": lambda: ta.FAB(model, steps=steps, multi_targeted=True, n_classes=classes, **once),
            "square": lambda: ta.Square(model, n_queries=effort.queries, **once),
            "autoattack": lambda: ta.AutoAttack(model, eps=eps, n_classes=classes, seed=self.task.seed),
        }[name]
        return self.in_batches(lambda x, y: attack()(x, y), n)


class Foolbox(_ContiguousTorchLibrary):
    """https://github.com/bethgelab/foolbox."""

    module, attacks = "foolbox", SIMPLE

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """See `StrengthLibrary.attack`."""
        import foolbox
        from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod as MIFGSM

        if name == "pgd":
            attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=effort.steps)
        else:
            attack = MIFGSM(abs_stepsize=eps / effort.steps, steps=effort.steps)
        model = foolbox.PyTorchModel(self.contiguous_network, bounds=(0, 1), device="cpu")
        return self.in_batches(lambda x, y: attack(model, x, y, epsilons=eps)[1], n)


class Art(_ContiguousTorchLibrary):
    """https://github.com/Trusted-AI/adversarial-robustness-toolbox."""

    module, attacks = "art", SIMPLE

    def attack(self, name: str, eps: float, effort: Effort, n: int) -> np.ndarray:
        """See `StrengthLibrary.attack`."""
        import torch
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        settings = dict(eps=eps, max_iter=effort.steps, batch_size=self.task.batch_size, verbose=False)
        classifier = PyTorchClassifier(
            self.contiguous_network,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(self.x.shape[1:]),
            nb_classes=self.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        if name == "pgd":
            attack = evasion.ProjectedGradientDescent(classifier, eps_step=eps / 4, num_random_init=1, **settings)
        else:
            attack = evasion.MomentumIterativeMethod(classifier, eps_step=eps / effort.steps, **settings)
        np.random.seed(self.task.seed)
        return attack.generate(self.x[:n].numpy(), self.y[:n].numpy()).transpose(0, 2, 3, 1)


def _channels_last(x: np.ndarray) -> Any:
    """A PyTorch tensor (N, C, H, W) in channels_last from images (N, H, W, C)."""
    import torch

    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)


LIBRARIES: dict[str, type[StrengthLibrary]] = {
    "tfadv": Tfadv,
    "auto-attack": AutoAttack,
    "torchattacks": Torchattacks,
    "foolbox": Foolbox,
    "art": Art,
}
