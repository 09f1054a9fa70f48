"""The ResNets of `tfadv.models` as PyTorch modules, with the weights of a Keras model."""

import torch
from torch import nn

from tfadv.models import MODELS


def _norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


class _Block(nn.Module):
    def __init__(self, kind, inside, width, stride):
        super().__init__()
        # (channels out, kernel, stride) of each convolution
        plan = {
            "basic": [(width, 3, stride), (width, 3, 1)],
            "bottleneck": [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)],
        }[kind]
        self.outside = plan[-1][0]
        self.number = len(plan)
        channels = inside
        for i, (out, kernel, step) in enumerate(plan, 1):
            self.add_module(f"conv{i}", nn.Conv2d(channels, out, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", _norm(out))
            channels = out
        self.shortcut_conv = None
        if stride != 1 or inside != self.outside:
            self.shortcut_conv = nn.Conv2d(inside, self.outside, 1, stride, bias=False)
            self.shortcut_bn = _norm(self.outside)

    def forward(self, x):
        y = x
        for i in range(1, self.number + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.number:
                y = torch.relu(y)
        if self.shortcut_conv is not None:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return torch.relu(y + x)


class ResNet(nn.Module):
    """float32 images (N, C, H, W) in [0, 1] → logits (N, K)."""

    def __init__(self, name, channels, num_classes):
        super().__init__()
        spec = MODELS[name]
        self.stem_conv = nn.Conv2d(channels, spec.width, 7, 2, 3, bias=False)
        self.stem_bn = _norm(spec.width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inside, self.blocks = spec.width, []
        for i, blocks in enumerate(spec.stage_blocks):
            for j in range(blocks):
                block = _Block(spec.block, inside, spec.width * 2**i, 2 if i > 0 and j == 0 else 1)
                self.add_module(f"stage{i + 1}_block{j + 1}", block)
                self.blocks.append(f"stage{i + 1}_block{j + 1}")
                inside = block.outside
        self.logits = nn.Linear(inside, num_classes)

    def forward(self, x):
        x = (x - 0.5) / 0.25
        x = self.pool(torch.relu(self.stem_bn(self.stem_conv(x))))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.logits(x.mean((2, 3)))


def build(name, input_shape, num_classes, weights):
    """A `ResNet` in channels_last with the weights of the Keras model of the same name.

    Args:
      name: a key of `tfadv.models.MODELS`.
      input_shape: (height, width, channels).
      num_classes: int.
      weights: dict of Keras variable path → array; each is used exactly once.
    """
    model = ResNet(name, input_shape[-1], num_classes)
    kinds = {"weight": ("kernel", "gamma"), "bias": ("bias", "beta")}
    kinds |= {"running_mean": ("moving_mean",), "running_var": ("moving_variance",)}
    left, state = dict(weights), {}
    for key in model.state_dict():
        path, kind = key.rsplit(".", 1)
        if kind == "num_batches_tracked":
            continue
        layer = path.replace(".", "_")
        array = next(left.pop(f"{layer}/{k}") for k in kinds[kind] if f"{layer}/{k}" in left)
        # Keras: height, width, in, out; PyTorch: out, in, height, width
        state[key] = torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
    if left:
        raise ValueError(f"weights without a place: {', '.join(left)}.")
    model.load_state_dict(state, strict=False)
    return model.to(memory_format=torch.channels_last)
