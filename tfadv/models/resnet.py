"""ResNets for image classification: v1.5 as in torchvision, as functional Keras models.

He et al. 2015 (https://arxiv.org/abs/1512.03385); "v1.5" puts the stride of a
bottleneck on its 3x3 convolution.  Padding, BatchNorm settings and parameter
counts are torchvision's, so that weights can be carried over layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers

# The same two numbers for every data set: the first BatchNorm absorbs the difference, and a model
# file then depends on no data set.
_MEAN, _STD = 0.5, 0.25


def _conv(x, filters, kernel, stride, name):
    # Explicit padding: Keras' "same" pads a strided convolution on one side only, torchvision on both.
    pad = kernel // 2
    if pad and stride > 1:
        x = layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def _norm(x, name, gamma="ones"):
    # torchvision's momentum 0.1 is Keras' 0.9; Keras' default 0.99 leaves the statistics unconverged in short runs.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=name)(x)


def _relu(x, name):
    return layers.Activation("relu", name=name)(x)


def _shortcut(x, filters, stride, name):
    if stride == 1 and x.shape[-1] == filters:
        return x
    return _norm(_conv(x, filters, 1, stride, f"{name}_shortcut_conv"), f"{name}_shortcut_bn")


def basic_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    """Two 3x3 convolutions and a shortcut; `width` channels out."""
    y = _relu(_norm(_conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_bn1"), f"{name}_relu1")
    # gamma starts at zero, so each block starts as its shortcut: deep nets learn from the first steps on
    # (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).
    y = _norm(_conv(y, width, 3, 1, f"{name}_conv2"), f"{name}_bn2", gamma="zeros")
    y = layers.Add(name=f"{name}_add")([y, _shortcut(x, width, stride, name)])
    return _relu(y, f"{name}_out")


def bottleneck_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    """1x1, 3x3 and 1x1 convolutions and a shortcut; `4 * width` channels out."""
    y = _relu(_norm(_conv(x, width, 1, 1, f"{name}_conv1"), f"{name}_bn1"), f"{name}_relu1")
    y = _relu(_norm(_conv(y, width, 3, stride, f"{name}_conv2"), f"{name}_bn2"), f"{name}_relu2")
    y = _norm(_conv(y, 4 * width, 1, 1, f"{name}_conv3"), f"{name}_bn3", gamma="zeros")
    y = layers.Add(name=f"{name}_add")([y, _shortcut(x, 4 * width, stride, name)])
    return _relu(y, f"{name}_out")


def resnet(
    block: Callable[[keras.KerasTensor, int, int, str], keras.KerasTensor],
    stage_blocks: Sequence[int],
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int = 64,
    stem: str = "imagenet",
    name: str = "resnet",
) -> keras.Model:
    """Builds a ResNet.

    Args:
      block: `basic_block` or `bottleneck_block`.
      stage_blocks: ints, the number of blocks in each stage; a stage halves the
        image (but for the first) and doubles the channels.
      input_shape: (height, width, channels) of the images.
      num_classes: int, the number of logits.
      width: int, the channels of the stem and of the first stage.
      stem: "imagenet" or "cifar", see `tfadv.models.ModelSpec`.
      name: str, the model's name.

    Returns:
      A functional `keras.Model` from float32 images (N, H, W, C) in [0, 1] to
      float32 logits (N, num_classes).
    """
    # === Functional model ===
    inputs = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / _STD, offset=-_MEAN / _STD, name="normalise")(inputs)
    size, stride = {"imagenet": (7, 2), "cifar": (3, 1)}[stem]
    x = _relu(_norm(_conv(x, width, size, stride, "stem_conv"), "stem_bn"), "stem_relu")
    if stem == "imagenet":
        # After a ReLU, zeros pad a maximum as -inf would.
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for i, blocks in enumerate(stage_blocks):
        for j in range(blocks):
            stride = 2 if i > 0 and j == 0 else 1
            x = block(x, width * 2**i, stride, f"stage{i + 1}_block{j + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=name)
