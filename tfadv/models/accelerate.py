"""Optimized clones: the same function of the same variables, computed faster.

Keras computes each layer separately and in general form.  More is known of an
image classifier: which taps of a kernel ever overlap the image, how few channels
the first layer has, which convolution is followed by BatchNorm.  `accelerated`
uses that, and changes results only by float32 rounding.
"""

from __future__ import annotations

import weakref

import keras
import tensorflow as tf

from tfadv.models.structure import once_per_model
from tfadv.models.twins import is_quantized, needs_twin, use_own_gradient

_BATCH = 32  # the least batch size expected: decides whether to scale a kernel or the result of its convolution
_OPTIMIZED: weakref.WeakSet = weakref.WeakSet()  # all clones


def accelerated(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A model that computes the same function of the same variables, faster.

    No variable is copied: training the clone trains `model`.  Save `model`,
    whose layers are Keras' own.

    Args:
      model: a Keras model; only a fixed image size makes it faster.
      precision: "float32", or "mixed_bfloat16" to compute convolutions and the layers
        between them in bfloat16; variables, BatchNorm's statistics and logits stay float32.

    Returns:
      A functional `keras.Model` of the same inputs and outputs, or `model` itself
      where its layers are unknown (subclassed), one of them is used twice, is quantized
      or computes in half precision, or it is such a clone.
    """
    return model if model in _OPTIMIZED else _clone_of(model, precision) or model


@once_per_model
def _clone_of(model: keras.Model, precision: str) -> keras.Model | None:
    """The optimized clone; None where there is none."""
    try:
        functional = keras.Model(model.inputs, model.outputs, name=model.name)
    except (AttributeError, ValueError):
        return None
    nodes = _nodes(functional)
    if len(nodes) > len(functional.operations):  # one of them is used twice
        return None
    if any(_shapes(node) != _shapes(node.operation._inbound_nodes[0]) for node in nodes):  # `layer.input` is another
        return None
    if needs_twin(functional) or is_quantized(functional):
        return None
    clone = _optimized_clone(functional, precision)
    _OPTIMIZED.add(clone)
    use_own_gradient(clone)
    return clone


def computes_in_bfloat16(model: keras.Model) -> bool:
    """Whether any of its layers does."""
    return any(getattr(layer, "compute_dtype", None) == "bfloat16" for layer in model._flatten_layers())


def _optimized_clone(functional, precision):
    layers = functional.operations  # with those that are no layers, such as x + y
    nodes = {node.operation.name: node for node in _nodes(functional)}
    users = {layer.name: [u for u in layers if _reads(nodes[u.name], nodes[layer.name])] for layer in layers}
    outputs = [tensor._keras_history.operation.name for tensor in functional.outputs]
    convolutions = {c.name: _Convolution(c, _precision(c, precision)) for c in layers if _is_convolution(c)}
    absorbed = set()  # names of the layers that a convolution computes as well
    for layer in layers:
        if len(users[layer.name]) != 1 or layer.name in outputs:
            continue
        (user,) = users[layer.name]
        if _is_padding(layer) and user.name in convolutions and user.padding == "valid":
            convolutions[user.name].pad = layer.padding
            absorbed.add(layer.name)
        if layer.name in convolutions and layer.activation is keras.activations.linear and _is_norm(user):
            convolutions[layer.name].norm = user
            absorbed.add(user.name)

    def clone(layer):
        if layer.name in convolutions:
            return convolutions[layer.name]
        if isinstance(layer, keras.Model):
            return _Shared(accelerated(layer, precision), layer.dtype_policy, name=layer.name)
        if not isinstance(layer, keras.Layer) or isinstance(layer, keras.layers.InputLayer):
            return layer.__class__.from_config(layer.get_config())  # an operation such as x + y
        stays = layer.name in outputs or _precision(layer, precision) == "float32"
        if not stays and _is_plain(layer):
            return layer.__class__.from_config(layer.get_config() | {"dtype": precision})
        return _Shared(layer, layer.dtype_policy)

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in absorbed else layer(*args, **kwargs)

    return keras.models.clone_model(functional, clone_function=clone, call_function=call)


def _precision(layer, precision):
    """The precision of a layer: float32 for those that see pixels, which bfloat16 rounds by as much as 0.002."""
    channels = keras.tree.flatten(layer.input)[0].shape[-1]
    return "float32" if channels is not None and channels <= 4 else precision


def _nodes(functional):
    """The nodes of its graph.

    A layer may have others as well: loading a Sequential model leaves one for each layer that was added after it, and
    `layer.output` is that of the first.
    """
    return [node for nodes in functional._nodes_by_depth.values() for node in nodes]


def _shapes(node):
    return [tensor.shape for tensor in (*node.input_tensors, *node.outputs)]


def _reads(user, node):
    return any(tensor is output for tensor in user.input_tensors for output in node.outputs)


def _is_convolution(layer):
    return (
        type(layer) is keras.layers.Conv2D
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and layer.dilation_rate == (1, 1)
        and len(set(layer.strides)) == len(set(layer.kernel_size)) == 1
        and None not in layer.input.shape[1:]
    )


def _is_plain(layer):
    """Whether it is a layer of Keras without a state, which can be created anew from its configuration."""
    of_keras = type(layer).__module__.startswith("keras.")
    return of_keras and not layer.variables and not isinstance(layer, keras.layers.Lambda)


def _is_padding(layer):
    return type(layer) is keras.layers.ZeroPadding2D and layer.data_format == "channels_last"


def _is_norm(layer):
    return (
        type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3) and not getattr(layer, "renorm", False)
    )


class _Shared(keras.layers.Layer):
    """Calls a layer of the original model, so that its variables are the original's."""

    def __init__(self, layer, precision, name=None):
        super().__init__(name=name or layer.name, dtype=precision)
        self.layer = layer
        self.built = True

    def call(self, *args, training=None, **kwargs):
        return self.layer(*args, training=training, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        # Known already; to infer it, Keras would believe that a tensor times a number is sparse, and fail.
        return keras.tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), self.layer.output)


class _Convolution(_Shared):
    """A `Conv2D`, with the `ZeroPadding2D` before it and the `BatchNormalization` after it, where there are any."""

    def __init__(self, layer, precision):
        super().__init__(layer, layer.dtype_policy if precision == "float32" else precision)
        size, stride = layer.kernel_size[0], layer.strides[0]
        self.norm = None
        self.pad = ((0, 0), (0, 0))
        if layer.padding == "same":
            self.pad = tuple(_same(n, size, stride) for n in layer.input.shape[1:3])
        _, height, width, _ = layer.output.shape
        self._fold = size * size * layer.input.shape[-1] < _BATCH * height * width

    def call(self, x, training=None):  # type: ignore[override]
        layer, norm = self.layer, self.norm
        # Keras returns variables in the dtype of the computation; BatchNorm computes in float32 in any case.
        kernel, bias = tf.convert_to_tensor(layer.kernel), _float32(layer.bias) if layer.use_bias else None
        if norm is None or (training and norm.trainable):
            y = self._convolve(x, kernel)
            if bias is not None:
                y = tf.nn.bias_add(y, tf.cast(bias, y.dtype))
            return layer.activation(y) if norm is None else _normalise(norm, y)
        scale = tf.math.rsqrt(_float32(norm.moving_variance) + norm.epsilon)
        if norm.scale:
            scale *= _float32(norm.gamma)
        shift = -_float32(norm.moving_mean) if bias is None else bias - _float32(norm.moving_mean)
        shift *= scale
        if norm.center:
            shift += _float32(norm.beta)
        if self._fold:
            y = self._convolve(x, tf.cast(_float32(kernel) * scale, kernel.dtype))
            return tf.nn.bias_add(y, tf.cast(shift, y.dtype))  # a form that oneDNN fuses with convolution and ReLU
        y = self._convolve(x, kernel)
        return tf.cast(_float32(y) * scale + shift, y.dtype)

    def compute_output_spec(self, *args, **kwargs):
        return keras.KerasTensor(self.layer.output.shape, self.compute_dtype)

    def _convolve(self, x, kernel):
        return convolve(x, kernel, self.layer.strides[0], self.pad)


def _float32(x):
    return tf.cast(tf.convert_to_tensor(x), tf.float32)


def _normalise(norm, x):
    """BatchNorm with the statistics of the batch, which update those of the layer; one kernel instead of Keras' six."""
    if norm.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return norm(x, training=True)
    channels = x.shape[-1]
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=_float32(norm.gamma) if norm.scale else tf.ones(channels),
        offset=_float32(norm.beta) if norm.center else tf.zeros(channels),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=norm.epsilon,
        is_training=True,
    )
    n = tf.cast(tf.size(x) // channels, tf.float32)
    variance *= (n - 1) / n  # the kernel divides by n - 1 and Keras by n
    for moving, now in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        moving.assign(_float32(moving) * norm.momentum + now * (1 - norm.momentum))
    return y


def _same(n, size, stride):
    """(before, after): the zeros of the padding "same" along a side of n pixels."""
    total = max((-(-n // stride) - 1) * stride + size - n, 0)
    return total // 2, total - total // 2


def convolve(x: tf.Tensor, kernel: tf.Tensor, stride: int, pad: tuple[tuple[int, int], tuple[int, int]]) -> tf.Tensor:
    """A convolution with zeros around the images.

    Args:
      x: float (N, H, W, C).
      kernel: float (K, K, C, F).
      stride: int.
      pad: ((top, bottom), (left, right)), numbers of rows and columns of zeros.

    Returns:
      float (N, H', W', F).
    """
    (top, bottom), (left, right) = pad
    height, width, channels = x.shape[1:]
    size, filters = kernel.shape[0], kernel.shape[-1]
    if (height + top + bottom - size) // stride == (width + left + right - size) // stride == 0:
        # One pixel of result is a matrix product with the taps that meet the image; the others meet zeros.
        # At 32x32 pixels this is the whole last stage of a ResNet, and a ninth of its weights.
        rows, columns = min(height, size - top), min(width, size - left)
        x = tf.slice(x, (0, 0, 0, 0), (-1, rows, columns, -1))
        kernel = tf.slice(kernel, (top, left, 0, 0), (rows, columns, -1, -1))
        product = tf.reshape(x, (-1, rows * columns * channels)) @ tf.reshape(kernel, (-1, filters))
        return tf.reshape(product, (-1, 1, 1, filters))
    if stride == 2 and channels <= 4 and height % 2 == width % 2 == 0 and all(n < size for side in pad for n in side):
        return _halve(x, kernel, pad)
    if stride == 1 and _is_centred(pad, size):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    return tf.nn.conv2d(_zeros_around(x, pad), kernel, stride, "VALID")


def _is_centred(pad, size):
    return size % 2 == 1 and all(n == size // 2 for side in pad for n in side)


def _zeros_around(x, pad):
    return tf.pad(x, ((0, 0), *pad, (0, 0))) if any(n for side in pad for n in side) else x


def _halve(x, kernel, pad):
    """The first convolution of a network: stride 2 on few channels, where the usual gradient at the images is slow."""

    @tf.custom_gradient
    def halved(x, kernel):
        padded = _zeros_around(x, pad)

        def gradient(dy):
            at_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=padded, filter_sizes=tf.shape(kernel), out_backprop=dy, strides=(1, 2, 2, 1), padding="VALID"
            )
            return _gradient_of_halved(dy, kernel, x.shape, pad), at_kernel

        return tf.nn.conv2d(padded, kernel, 2, "VALID"), gradient

    return halved(x, kernel)


def _gradient_of_halved(dy, kernel, shape, pad):
    """The gradient at the images of the shape (N, H, W, C), with even sides.

    Taken as blocks of 2x2 pixels with four times the channels, the images are convolved with stride 1, and the gradient
    is an ordinary convolution.  Zeros around the kernel make whole blocks of it, which lie on those of the images.
    """
    size, _, channels, filters = kernel.shape
    fronts = [before % 2 for before, _ in pad]
    blocks = [(front + size + 1) // 2 for front in fronts]
    around = [(front, 2 * n - front - size) for front, n in zip(fronts, blocks)]
    taps = tf.reshape(tf.pad(kernel, (*around, (0, 0), (0, 0))), (blocks[0], 2, blocks[1], 2, channels, filters))
    taps = tf.reshape(tf.transpose(taps, (0, 2, 5, 1, 3, 4)), (*blocks, filters, 4 * channels))
    skipped = [(before + 1) // 2 for before, _ in pad]  # blocks of zeros before the images
    missing = [(n - 1 - s, side // 2 + s - out) for n, s, side, out in zip(blocks, skipped, shape[1:3], dy.shape[1:3])]
    return tf.nn.depth_to_space(tf.nn.conv2d(dy, tf.reverse(taps, (0, 1)), 1, ((0, 0), *missing, (0, 0))), 2)
