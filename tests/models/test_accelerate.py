"""The optimized clone computes what the model does: outputs, gradients, statistics, variables."""

import gc
import tempfile
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfadv import models
from tfadv.models import resnet
from tfadv.models.accelerate import accelerated, computes_in_bfloat16, convolve


def randomize(model, seed=0):
    """Gives BatchNorm statistics and scales as after training; at first it computes the identity."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if "gamma" in v.path:
            v.assign(rng.uniform(0.1, 0.5, v.shape))  # more would double the signal block by block
        elif "variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif "mean" in v.path or "beta" in v.path or "bias" in v.path:
            v.assign(rng.normal(0, 0.3, v.shape))
    return model


def odd_net():
    """What the ResNets lack: biases, activations in layers, outputs with two users, no scale, a shared padding."""
    x = inputs = keras.Input((12, 10, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="biased")(x)
    x = layers.BatchNormalization(scale=False, name="no_scale")(x)
    x = layers.Activation("relu")(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="active")(x)
    y = layers.BatchNormalization(name="after_relu")(y)
    z = layers.Conv2D(8, 1, name="read_twice")(x)
    z = layers.Add()([layers.BatchNormalization(center=False)(z), z, y])
    z = layers.ZeroPadding2D(((1, 2), (0, 1)), name="shared_pad")(z)
    z = layers.Concatenate()([layers.Conv2D(4, 3)(z), layers.Conv2D(4, 3, use_bias=False)(z)])
    z = layers.DepthwiseConv2D(3, padding="same")(z)
    z = layers.Conv2D(6, (2, 3), padding="same")(z)
    z = layers.Flatten()(z) * 2.0  # an operation that is no layer
    return keras.Model(inputs, layers.Dense(5, activation="tanh")(z))


def gated():
    """A channel gate as in MobileNetV3: a tensor times a number, which Keras takes for sparse, and one-pixel images."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    gate = layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    gate = layers.ReLU(6.0)(gate + 3.0) * (1 / 6)
    x = layers.Conv2D(4, 1)(layers.Multiply()([x, gate]))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)))


def attentive():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inputs))
    x = layers.Reshape((64, 8))(x)
    x = layers.MultiHeadAttention(2, 4)(query=x, value=x, key=x)
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def operations():
    """Outputs that an operation reads which is no layer, beside a layer."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.BatchNormalization()(x) + keras.ops.tanh(x)
    padded = layers.ZeroPadding2D(1)(x)
    x = layers.Flatten()(layers.Conv2D(4, 3)(padded)) + keras.ops.mean(padded, axis=(1, 2, 3))[:, None]
    return keras.Model(inputs, layers.Dense(5)(x))


def sequential():
    return keras.Sequential(
        [keras.Input((9, 9, 2)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(5)]
    )


def loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return keras.models.load_model(f"{folder}/model.keras")


NETS = {
    "gated": gated,
    "attentive": attentive,
    "resnet_tiny": lambda: models.build("resnet_tiny", (16, 16, 3), 5),
    "resnet18": lambda: models.build("resnet18", (32, 32, 1), 5),
    "bottleneck": lambda: resnet.resnet(resnet.bottleneck_block, (1, 2), (32, 32, 3), 5, width=16),
    "resnet50": lambda: models.build("resnet50", (32, 32, 3), 5),
    "odd": odd_net,
    "operations": operations,
    "sequential": sequential,
    "loaded_sequential": lambda: loaded(sequential()),
}


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.long) if n == "resnet50" else n for n in NETS])
def net(request):
    keras.utils.set_random_seed(0)
    return randomize(NETS[request.param]())


def batch(model, n=32):
    rng = np.random.default_rng(0)
    return tf.constant(rng.uniform(size=(n, *model.input_shape[1:])), tf.float32), tf.constant(rng.integers(0, 5, n))


def run(model, x, y, training):
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = model(x, training=training)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, out))
    variables = sorted(model.trainable_variables, key=lambda v: v.path)
    return out, tape.gradient(loss, [x, *variables])


def close(a, b, tolerance):
    scale = np.abs(b).max() or 1.0
    np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


@pytest.mark.parametrize("training", [False, True])
def test_same_outputs_gradients_and_statistics(net, training):
    clone, start, (x, y) = accelerated(net), net.get_weights(), batch(net)
    assert clone is not net and {type(layer).__name__ for layer in clone.layers} & {"_Convolution", "_Shared"}
    theirs, their_gradients = run(net, x, y, training)
    statistics = net.get_weights()
    net.set_weights(start)
    ours, our_gradients = run(clone, x, y, training)
    close(ours, theirs, 1e-4 if training else 1e-5)
    # A rounding can turn a ReLU, and deep in training mode it does: images changed by 1e-7 give as large a difference.
    tolerance = 0.1 if training and len(net.layers) > 50 else 1e-5
    largest = max(map(np.linalg.norm, their_gradients[1:]))  # that of a bias before a BatchNorm is nothing but rounding
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), largest)
    for a, b in zip(net.get_weights(), statistics, strict=True):
        close(a, b, 1e-5)
    moved = any((a != b).any() for a, b in zip(start, statistics))
    assert moved == training


def test_signs_of_the_gradient(net):
    x, y = batch(net)
    a, b = (tf.sign(tf.function(run)(m, x, y, False)[1][0]) for m in (accelerated(net), net))
    assert np.abs(b).mean() > 0.2 and (a != b).numpy().mean() < 1e-3


def test_the_clone_has_the_variables_of_the_model(net):
    clone = accelerated(net)
    assert sorted(map(id, clone.trainable_variables)) == sorted(map(id, net.trainable_variables))
    assert sorted(map(id, clone.weights)) == sorted(map(id, net.weights))
    assert accelerated(net) is clone


def test_the_model_itself_is_not_changed(net):
    config = net.get_config()
    accelerated(net)
    assert net.get_config() == config
    for layer in net.layers:
        assert layer.output is not None  # Keras refuses where a layer has been called a second time


def test_a_frozen_batchnorm_stays_frozen():
    net = randomize(NETS["resnet_tiny"]())
    net.trainable = False
    start, (x, _) = net.get_weights(), batch(net)
    accelerated(net)(x, training=True)
    for a, b in zip(net.get_weights(), start):
        np.testing.assert_array_equal(a, b)


def test_a_model_for_any_image_size():
    inputs = keras.Input((None, None, None))
    x = layers.Lambda(lambda t: tf.ensure_shape(t, (None, None, None, 3)))(inputs)
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(x))
    net = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    x = tf.random.stateless_uniform((2, 9, 11, 3), (0, 0))
    for precision in ("float32", "mixed_bfloat16"):
        close(accelerated(net, precision)(x), net(x), 0.02)


def test_convolutions_absorb_paddings_and_batchnorms():
    names = [layer.name for layer in accelerated(NETS["resnet18"]()).layers]
    assert [name for name in names if "pad" in name or "bn" in name] == ["stem_pool_pad"]


def test_what_is_an_output_as_well_is_not_computed_by_another_layer():
    inputs = keras.Input((8, 8, 3))
    padded = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(4, 3)(padded)
    model = randomize(keras.Model(inputs, [padded, x, layers.BatchNormalization()(x)]))
    images = batch(model)[0]
    for ours, theirs in zip(accelerated(model)(images), model(images), strict=True):
        close(ours, theirs, 1e-5)


@pytest.mark.parametrize("side", [7, 8])
def test_layers_that_another_model_has_for_other_images(side):
    """The zeros of "same" depend on the size."""
    stack = [layers.Conv2D(4, 3, strides=2, padding="same"), layers.BatchNormalization()]
    for size in (8, side):
        x = inputs = keras.Input((size, size, 3))
        for layer in stack:
            x = layer(x)
        model = randomize(keras.Model(inputs, x))
    assert (accelerated(model) is model) == (side == 7)
    images = batch(model)[0]
    close(accelerated(model)(images), model(images), 1e-5)


def test_a_subclassed_model_and_a_layer_used_twice_have_no_clone():
    class Own(keras.Model):
        def call(self, x):
            return x

    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    twice = keras.Model(inputs, conv(conv(inputs)))
    own = Own()
    assert accelerated(own) is own and accelerated(twice) is twice


def test_dropout_is_active_in_training_only():
    inputs = keras.Input((4, 4, 8))
    clone = accelerated(keras.Model(inputs, layers.Dropout(0.5, seed=0)(layers.Conv2D(8, 1)(inputs))))
    x = tf.ones((2, 4, 4, 8))
    assert not (clone(x, training=False).numpy() == 0).any()
    assert 0.3 < (clone(x, training=True).numpy() == 0).mean() < 0.7


def test_a_mixed_precision_clone_shares_float32_variables_and_returns_float32_logits():
    net = randomize(NETS["resnet18"]())
    clone, start, (x, _) = accelerated(net, "mixed_bfloat16"), net.get_weights(), batch(net)
    assert sorted(map(id, clone.weights)) == sorted(map(id, net.weights))
    assert all(v.dtype == "float32" for v in clone.weights)
    kinds = {layer.name: layer.compute_dtype for layer in clone.layers}
    assert {kinds[name] for name in ("normalise", "stem_conv", "logits")} == {"float32"}
    assert {kinds[name] for name in ("stem_pool", "stage1_block1_conv1", "stage4_block2_add")} == {"bfloat16"}
    for training in (False, True):
        net.set_weights(start)
        theirs = net(x, training=training)
        net.set_weights(start)
        ours = clone(x, training=training)
        assert ours.dtype == tf.float32
        close(ours, theirs, 0.05)
        assert (ours != theirs).numpy().any()  # it does compute in another precision
    assert (np.sign(accelerated(net)(x)) == np.sign(net(x))).all()  # the float32 clone is a different one


class Doubled(layers.Layer):
    """A layer without weights that can't be created from a configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x


def test_a_layer_of_the_user_and_the_outputs_stay_float32():
    inputs = keras.Input((8, 8, 8))
    x = Doubled(2.0)(layers.ReLU()(layers.Conv2D(8, 3)(inputs)))
    net = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x)))
    clone = accelerated(net, "mixed_bfloat16")
    kinds = [layer.compute_dtype for layer in clone.layers[1:]]
    assert kinds == ["bfloat16", "bfloat16", "float32", "bfloat16", "float32"]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype("float32")
    assert clone(x).dtype == tf.float32
    close(clone(x), net(x), 0.02)


def test_a_clone_is_its_own_clone():
    clone = accelerated(NETS["resnet_tiny"](), "mixed_bfloat16")
    assert accelerated(clone) is clone and computes_in_bfloat16(clone)
    assert not computes_in_bfloat16(accelerated(NETS["resnet_tiny"]()))


def test_a_model_of_mixed_precision():
    with keras.device("cpu"):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            net = randomize(NETS["resnet_tiny"]())
        finally:
            keras.config.set_dtype_policy(before)
    x, _ = batch(net)
    for training in (False, True):
        ours, theirs = (m(x, training=training) for m in (accelerated(net), net))
        assert ours.dtype == theirs.dtype == tf.float32
        close(ours, theirs, 0.05)


def test_the_clone_does_not_keep_the_model_in_memory():
    net = NETS["sequential"]()
    accelerated(net)
    gone = weakref.ref(net)
    del net
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "shape, size, stride, pad",
    [
        ((32, 32, 3), 7, 2, 3),  # the stem
        ((32, 30, 1), 7, 2, 3),
        ((33, 33, 3), 7, 2, 3),  # odd sides
        ((8, 8, 3), 3, 2, 1),
        ((1, 1, 8), 3, 1, 1),  # one pixel
        ((2, 2, 8), 3, 2, 1),
        ((2, 2, 8), 1, 2, 0),
        ((3, 3, 4), 3, 1, 0),
        ((2, 3, 4), 3, 2, 1),  # one row, two columns
        ((8, 8, 8), 3, 1, 1),
        ((8, 8, 4), 5, 2, 2),
        ((6, 6, 3), 4, 2, 1),
        ((8, 10, 3), 3, 2, ((0, 1), (0, 1))),  # as Keras pads even sides with "same"
        ((8, 10, 3), 5, 2, ((1, 2), (1, 2))),
        ((8, 6, 1), 2, 2, 0),
        ((8, 6, 1), 1, 2, 0),
        ((8, 6, 2), 6, 2, ((5, 0), (2, 3))),
        ((8, 6, 2), 5, 2, ((3, 4), (0, 1))),
        ((8, 6, 3), 3, 2, ((3, 0), (0, 0))),  # more zeros than the kernel is wide
    ],
)
def test_convolve_equals_padding_and_convolution(shape, size, stride, pad):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(5, *shape)), tf.float32)
    kernel = tf.constant(rng.normal(size=(size, size, shape[-1], 16)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        pad = ((pad, pad), (pad, pad)) if isinstance(pad, int) else pad
        padded = tf.pad(x, ((0, 0), *pad, (0, 0)))
        expected = tf.nn.conv2d(padded, kernel, stride, "VALID")
        got = convolve(x, kernel, stride, pad)
        losses = tf.reduce_sum(tf.sin(expected / 9)), tf.reduce_sum(tf.sin(got / 9))
    close(got, expected, 1e-5)
    for variable in (x, kernel):
        close(tape.gradient(losses[1], variable), tape.gradient(losses[0], variable), 1e-5)


@pytest.mark.parametrize("training", [None, False, True])
def test_a_layer_with_a_training_of_its_own_is_called_as_in_the_model(training):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    nested = keras.Sequential([keras.Input((8, 8, 3)), layers.BatchNormalization(), layers.Conv2D(4, 3)])
    x = layers.BatchNormalization()(nested(x, training=False), training=True)
    model = keras.Model(inputs, layers.Flatten()(x))
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    found = []
    for network in (model, accelerated(model)):
        start = model.get_weights()
        found.append((network(images, training=training).numpy(), model.get_weights()))
        model.set_weights(start)
    (expected, statistics), (output, clone_statistics) = found
    np.testing.assert_allclose(output, expected, atol=1e-5)
    for ours, theirs in zip(clone_statistics, statistics, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
