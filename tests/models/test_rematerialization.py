"""A rematerialized model computes what the model computes, and keeps fewer activations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import classifier, models
from tfadv.errors import UserError
from tfadv.models.accelerate import accelerated
from tfadv.models.rematerialization import rematerialized
from tfadv.objectives.cross_entropy import cross_entropy
from tfadv.objectives.nfgsm import NFGSM
from tfadv.runtime import compilation
from tfadv.training import Trainer

X = tf.constant(np.random.default_rng(0).random((6, 16, 16, 3), np.float32))
Y = tf.constant([0, 1, 2, 3, 4, 0], tf.int64)


@pytest.fixture(autouse=True)
def compiled_as_by_default():
    yield
    compilation.configure()


def network(dropout=0.0):
    """Four residual blocks between a first convolution and a dense layer."""
    keras.utils.set_random_seed(0)
    x = start = keras.Input((16, 16, 3))
    for _ in range(4):
        y = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        y = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(y))
        y = keras.layers.Dropout(dropout, seed=1)(y) if dropout else y
        y = keras.layers.Conv2D(8, 3, padding="same")(y)
        x = keras.layers.Add()([y, x]) if x.shape[-1] == 8 else y
    return keras.Model(start, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))


def step(model, form):
    """(loss, gradient at the images, gradients at the weights, states after it)."""

    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        return loss, tape.gradient(loss, [x, *[v.value for v in model.trainable_variables]])

    if form != "eager":
        compute = tf.function(compute, jit_compile=form == "XLA", autograph=False)
    loss, gradients = compute(X)
    states = [v.numpy() for v in model.non_trainable_variables]
    return loss.numpy(), [g.numpy() for g in gradients], states


@pytest.mark.parametrize("form", ["eager", "graph", "XLA"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_and_states_are_those_of_the_model(form, dropout):
    loss, gradients, states = step(accelerated(network(dropout)), form)
    again_loss, again_gradients, again_states = step(rematerialized(accelerated(network(dropout))), form)
    np.testing.assert_allclose(again_loss, loss, rtol=1e-5)
    assert len(gradients) == len(again_gradients)
    for again, gradient in zip(again_gradients, gradients, strict=True):
        np.testing.assert_allclose(again, gradient, atol=1e-5 * np.abs(gradient).max())
    for again, state in zip(again_states, states, strict=True):
        np.testing.assert_allclose(again, state, rtol=1e-5, atol=1e-6)


def backward_pass(model, jit_compile):
    """A compiled function."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        return tape.gradient(y, [x, *[v.value for v in model.trainable_variables]])

    return tf.function(gradient, jit_compile=jit_compile, autograph=False)


def convolutions(model):
    """Those of the forward passes in a backward pass, as traced."""
    graph = backward_pass(model, False).get_concrete_function(X).graph
    return [operation.type for operation in graph.get_operations()].count("Conv2D")


def compiled_convolutions(model):
    """All of a backward pass, after XLA has optimized it."""
    return backward_pass(model, True).experimental_get_compiler_ir(X)(stage="optimized_hlo").count(" convolution(")


def test_the_backward_pass_recomputes_all_segments_but_the_last():
    assert convolutions(accelerated(network())) == 8
    model = rematerialized(accelerated(network()))
    last = sum("conv" in layer.name for layer in model.layers[-1].operations)
    assert 0 < last < 8
    assert convolutions(model) == 8 + 8 - last


def test_xla_does_not_merge_the_two_forward_passes():
    model = rematerialized(accelerated(network()))
    # Of each recomputed segment, the last convolution is not needed.
    recomputed = sum(sum("conv" in layer.name for layer in s.operations) - 1 for s in model.layers[1:-1])
    assert recomputed > 0
    assert compiled_convolutions(model) >= compiled_convolutions(accelerated(network())) + recomputed


def test_segments_join_blocks_so_that_little_is_kept():
    clone = accelerated(models.build("resnet50", (64, 64, 3), 10))
    model = rematerialized(clone)
    kept = [layer.output for layer in model.layers if layer.name.startswith("segment")][:-1]
    activations = sum(np.prod(o.output.shape[1:]) for o in clone.operations)
    assert 4 <= len(kept) <= 16  # of 16 blocks
    assert sum(np.prod(tensor.shape[1:]) for tensor in kept) < activations / 7
    assert [v.path for v in model.variables] == [v.path for v in clone.variables]


def test_a_nested_model_is_cut_as_well():
    nested = classifier(network(), input_range=(0, 255))
    clone = accelerated(nested)
    model = rematerialized(clone)
    assert len(model.layers[-1].layers) > 2  # the segments of the nested model
    assert convolutions(model) > convolutions(clone)
    np.testing.assert_allclose(model(X), clone(X), rtol=1e-5)


class Frozen(keras.layers.Layer):
    """Calls a layer as in inference, whatever the model does."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()

    def call(self, x):
        return self.norm(x, training=False)


def test_a_layer_that_calls_another_one_in_inference_leaves_the_next_layers_in_training():
    keras.utils.set_random_seed(0)
    x = start = keras.Input((16, 16, 3))
    y = keras.layers.Dropout(0.5, seed=1)(keras.layers.BatchNormalization()(Frozen()(x)))
    x = keras.layers.Add()([x, y])  # around a block that can't be cut
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(keras.layers.Conv2D(4, 3)(x)))
    clone = accelerated(keras.Model(start, keras.layers.Dense(5)(x)))
    start = [v.numpy() for v in clone.variables]
    expected = clone(X, training=True)
    states = [v.numpy() for v in clone.non_trainable_variables]
    for variable, value in zip(clone.variables, start, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(rematerialized(clone)(X, training=True), expected, rtol=1e-5)
    for variable, state in zip(clone.non_trainable_variables, states, strict=True):
        np.testing.assert_allclose(variable, state, rtol=1e-5)
    assert any((v.numpy() != value).any() for v, value in zip(clone.variables, start, strict=True))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_dtypes_between_segments_are_those_of_the_model(precision):
    clone = accelerated(network(), precision)
    x = X.numpy()
    np.testing.assert_array_equal(rematerialized(clone)(x), clone(x))
    assert rematerialized(clone)(x).dtype == "float32"


@pytest.mark.parametrize("objective", [cross_entropy, NFGSM()])
@pytest.mark.parametrize("jit_compile", ["false", "true"])
def test_training_gives_the_same_weights(objective, jit_compile):
    compilation.configure(jit_compile=jit_compile)
    trained = []
    for rematerialize in (False, True):
        model = network(dropout=0.5)
        trainer = Trainer(model, weight_decay=0.01, objective=objective, rematerialize=rematerialize, batch_parts=2)
        for number in range(3):
            trainer.train_step(X, Y, 0.03, (0, number))
        trained.append(model.get_weights())
    for again, weights in zip(*trained, strict=True):
        np.testing.assert_allclose(again, weights, rtol=1e-3, atol=1e-5)


def test_models_that_can_not_be_cut_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="functional or sequential"):
        Trainer(Own(), weight_decay=0.0, objective=cross_entropy, rematerialize=True)
    first, second = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(UserError, match="can't cut"):
        rematerialized(keras.Model([first, second], keras.layers.Add()([first, second])))
    compilation.configure(accelerate="off")
    with pytest.raises(UserError, match="--accelerate=auto"):
        Trainer(network(), weight_decay=0.0, objective=cross_entropy, rematerialize=True)
