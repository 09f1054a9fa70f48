"""The ResNets of `tfadv.models` as PyTorch modules, with the weights of a Keras model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tfadv.models import MODELS


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


class _Block(nn.Module):
    """A residual block; `out_channels` is the number of channels that it returns."""

    def __init__(self, kind: str, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        # (channels out, kernel, stride) of each convolution
        convolutions = {
            "basic": [(width, 3, stride), (width, 3, 1)],
            "bottleneck": [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)],
        }[kind]
        self.out_channels = convolutions[-1][0]
        self.number = len(convolutions)
        channels = in_channels
        for i, (out, kernel, step) in enumerate(convolutions, 1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", _norm(out))
            channels = out
        self.shortcut_conv = None
        if stride != 1 or in_channels != self.out_channels:
            self.shortcut_conv = nn.Conv2d(in_channels, self.out_channels, 1, stride, bias=False)
            self.shortcut_bn = _norm(self.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.number + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.number:
                y = torch.relu(y)
        if self.shortcut_conv is not None:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return torch.relu(y + x)


class ResNet(nn.Module):
    """From float32 images (N, C, H, W) in [0, 1] to logits (N, K)."""

    def __init__(self, name: str, channels: int, num_classes: int) -> None:
        """Takes the name of a model in `tfadv.models.MODELS`, the channels of the images and the number of classes."""
        super().__init__()
        spec = MODELS[name]
        self.stem_conv = nn.Conv2d(channels, spec.width, 7, 2, 3, bias=False)
        self.stem_bn = _norm(spec.width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels, self.blocks = spec.width, []
        for i, blocks in enumerate(spec.stage_blocks):
            for j in range(blocks):
                block = _Block(spec.block, channels, spec.width * 2**i, 2 if i > 0 and j == 0 else 1)
                self.add_module(f"stage{i + 1}_block{j + 1}", block)
                self.blocks.append(f"stage{i + 1}_block{j + 1}")
                channels = block.out_channels
        self.logits = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        x = (x - 0.5) / 0.25
        x = self.pool(torch.relu(self.stem_bn(self.stem_conv(x))))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.logits(x.mean((2, 3)))


def build(name: str, channels: int, num_classes: int, weights: Mapping[str, np.ndarray]) -> ResNet:
    """Builds a `ResNet` in channels_last with the weights of the Keras model of the same name.

    Args:
      name: a name in `tfadv.models.MODELS`.
      channels: of the images.
      num_classes: the number of logits.
      weights: Keras variable path → array; each is used exactly once.

    Raises:
      ValueError: there are weights that no layer takes.
    """
    model = ResNet(name, channels, num_classes)
    keras_names: dict[str, tuple[str, ...]] = {
        "weight": ("kernel", "gamma"),
        "bias": ("bias", "beta"),
        "running_mean": ("moving_mean",),
        "running_var": ("moving_variance",),
    }
    unused, state = dict(weights), {}
    for key in model.state_dict():
        path, kind = key.rsplit(".", 1)
        if kind == "num_batches_tracked":
            continue
        layer = path.replace(".", "_")
        array = next(unused.pop(f"{layer}/{k}") for k in keras_names[kind] if f"{layer}/{k}" in unused)
        # Keras: height, width, in, out; PyTorch: out, in, height, width
        state[key] = torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
    if unused:
        raise ValueError(f"weights that no layer takes: {', '.join(unused)}.")
    model.load_state_dict(state, strict=False)
    return model.to(memory_format=torch.channels_last)
