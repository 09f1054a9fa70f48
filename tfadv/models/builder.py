"""Builds models of the table `MODELS`."""

from __future__ import annotations

import keras

from tfadv.models import MODELS, resnet


def build(name: str, input_shape: tuple[int, int, int], num_classes: int, *, synchronized: bool = False) -> keras.Model:
    """Builds a model of the table with random weights.

    Args:
      name: a name in `MODELS`.
      input_shape: (height, width, channels).
      num_classes: the number of logits.
      synchronized: whether BatchNorm uses the whole batch where several devices share it, and not only its own slice.

    Returns:
      A functional `keras.Model` from float32 images (N, H, W, C) in [0, 1] to float32 logits (N, num_classes).

    Raises:
      UserError: no such model.
    """
    spec = MODELS[name]
    block = {"basic": resnet.basic_block, "bottleneck": resnet.bottleneck_block}[spec.block]
    model = resnet.resnet(
        block, spec.stage_blocks, input_shape, num_classes, width=spec.width, stem=spec.stem, name=name
    )
    for layer in model.layers:
        if hasattr(layer, "synchronized"):
            layer.synchronized = synchronized
    return model
