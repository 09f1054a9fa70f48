"""The table of models, and `build`; no Keras here.

A new ResNet is one entry in the table.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfadv.registry import Registry


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A ResNet.

    Attributes:
      block: kind of block, "basic" or "bottleneck".
      stage_blocks: number of blocks in each stage.
      width: channels of the first stage.
      stem: "imagenet", a 7x7 convolution with stride 2 and max-pooling; or "cifar", a 3x3 convolution with stride 1,
        which keeps all pixels of small images.
    """

    block: str
    stage_blocks: tuple[int, ...]
    width: int = 64
    stem: str = "imagenet"


MODELS = Registry(
    "model",
    {
        "resnet18": ModelSpec("basic", (2, 2, 2, 2)),
        "resnet50": ModelSpec("bottleneck", (3, 4, 6, 3)),
        "resnet101": ModelSpec("bottleneck", (3, 4, 23, 3)),
        "resnet18_cifar": ModelSpec("basic", (2, 2, 2, 2), stem="cifar"),  # that of most published CIFAR-10 results
        "resnet_tiny": ModelSpec("basic", (1, 1), width=8),  # for tests and smoke runs: seconds, not minutes
    },
)


def __getattr__(name: str) -> Any:
    if name == "build":  # loads Keras, which takes seconds
        from tfadv.models.builder import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
