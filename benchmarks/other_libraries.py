"""The libraries that tfadv is measured beside."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.libraries import CLASSES, KerasLibrary, Library


class CleverHans(KerasLibrary):
    """https://github.com/cleverhans-lab/cleverhans."""

    distribution = "cleverhans"

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

    distribution = "adversarial-robustness-toolbox"

    def build(self, model: str, weights: dict[str, np.ndarray]) -> None:
        """See `Library.build`."""
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

    distribution = "foolbox"

    def build(self, model: str, weights: dict[str, np.ndarray]) -> None:
        """See `Library.build`."""
        import foolbox

        super().build(model, weights)
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
    """torchattacks, and a training loop in PyTorch, in the memory layout that is fastest on a CPU.

    https://github.com/Harry24k/adversarial-attacks-pytorch
    """

    distribution = "torchattacks"

    def __init__(self) -> None:
        """Lets PyTorch use all cores."""
        import torch

        torch.set_num_threads(os.cpu_count() or 1)

    def version(self) -> str:
        """The versions of torchattacks and PyTorch."""
        return f"{super().version()}, PyTorch {importlib.metadata.version('torch')}"

    def build(self, model: str, weights: dict[str, np.ndarray]) -> None:
        """See `Library.build`."""
        import torch

        from benchmarks import torch_resnet

        self.model = torch_resnet.build(model, self.x.shape[-1], CLASSES, weights).eval()
        x = torch.tensor(self.x.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
        self.tensors = x, torch.tensor(self.y)

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

    def prepare_training(self, images: int = 0) -> None:
        """Builds an optimizer, and so many training images for `epochs`."""
        import torch

        self.model.train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        rows = torch.arange(images) % len(self.y)
        self.images, self.labels = (255 * self.tensors[0]).to(torch.uint8)[rows], self.tensors[1][rows]

    def train(self, steps: int) -> float:
        """Takes training steps on the batch in memory; returns the last mean loss."""
        for _ in range(steps):
            loss = self._step(*self.tensors)
        return loss

    def epochs(self, number: int, folder: str) -> None:
        """Trains in a plain loop over images in memory, half of which are flipped, rotated and given noise."""
        import torch
        from torch.nn import functional

        for _ in range(number):
            for rows in torch.randperm(len(self.labels)).split(len(self.y)):
                x = self.images[rows].float() / 255
                half = len(rows) // 2
                angle = torch.empty(half).uniform_(-0.17, 0.17)
                flip = torch.randint(0, 2, (half,)) * 2 - 1
                zero = torch.zeros(half)
                matrix = torch.stack([flip * angle.cos(), -angle.sin(), zero, flip * angle.sin(), angle.cos(), zero], 1)
                grid = functional.affine_grid(matrix.view(half, 2, 3), list(x[:half].shape), align_corners=False)
                changed = functional.grid_sample(x[:half], grid, padding_mode="border", align_corners=False)
                noise = 0.1 * (torch.rand(half, 1, 1, 1) - 0.5) + 0.02 * torch.randn_like(changed)
                x = torch.cat([(changed + noise).clamp(0, 1), x[half:]])
                self._step(x.contiguous(memory_format=torch.channels_last), self.labels[rows])

    def _step(self, x: Any, y: Any) -> float:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()
