"""The table of models, and `build`.  A new model is one file beside this one and one line in the table."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Spec:
    """A ResNet: kind of block ("basic" or "bottleneck"), blocks in each stage, channels of the first stage."""

    block: str
    stage_blocks: tuple[int, ...]
    width: int = 64


MODELS = {
    "resnet18": Spec("basic", (2, 2, 2, 2)),
    "resnet50": Spec("bottleneck", (3, 4, 6, 3)),
    "resnet101": Spec("bottleneck", (3, 4, 23, 3)),
    "resnet_tiny": Spec("basic", (1, 1), width=8),  # for tests and smoke runs: seconds, not minutes
}


def build(name, input_shape, num_classes, *, synchronized=False):
    """Builds a model of the table.

    Args:
      name: str, a key of `MODELS`.
      input_shape: (height, width, channels).
      num_classes: int, the number of logits.
      synchronized: bool, BatchNorm sees the whole batch where several devices share it, and not its own slice.

    Returns:
      A functional `keras.Model` from float32 images (N, H, W, C) in [0, 1] to
      float32 logits (N, num_classes), with random weights.
    """
    from tfadv.models import resnet  # Keras takes seconds to load; the table above must not

    spec = MODELS[name]
    block = {"basic": resnet.basic_block, "bottleneck": resnet.bottleneck_block}[spec.block]
    model = resnet.resnet(block, spec.stage_blocks, input_shape, num_classes, width=spec.width, name=name)
    for layer in model.layers:
        if hasattr(layer, "synchronized"):
            layer.synchronized = synchronized
    return model
