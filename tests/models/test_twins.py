"""A model in half precision, or quantized, is attacked as its float32 twin would be, and judged as it is."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

import tfadv
from tfadv.attacks.gradient import logits_and_gradient, logits_of
from tfadv.models.logits import classifier
from tfadv.models.twins import HALF, copy_of, float32_twin, needs_twin

POLICIES = ("mixed_float16", "float16", "mixed_bfloat16")
CONFIDENCE = 8.0  # scales the logits: the gradient of the cross-entropy then underflows in float16


def parts():
    return [
        layers.Rescaling(1 / 255),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(10),
        layers.Activation("softmax", dtype="float32"),
    ]


def sequential():
    return keras.Sequential([keras.Input((8, 8, 1)), *parts()])


def functional():
    x = images = keras.Input((8, 8, 1))
    for layer in parts():
        x = layer(x)
    return keras.Model(images, x)


def nested():
    own = parts()
    inner = keras.Sequential([keras.Input((8, 8, 1)), *own[:3]])
    images = keras.Input((8, 8, 1))
    return keras.Model(images, own[5](own[4](own[3](inner(images)))))


class Subclassed(keras.Model):
    """Keeps its layers in a list and in a dict, and returns logits."""

    def __init__(self):
        super().__init__()
        self.body, self.head = parts()[:4], {"logits": layers.Dense(10)}

    def call(self, x):
        for layer in self.body:
            x = layer(x)
        return self.head["logits"](x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


class OwnCasts(Subclassed):
    """Casts to half precision in its own code."""

    def call(self, x):
        return tf.cast(super().call(x), tf.float16)


def own_casts():
    model = OwnCasts()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


KINDS = (sequential, functional, nested, subclassed)
SHORT = (
    (functional, "mixed_float16"),
    (nested, "int8"),
    (subclassed, "float16"),
    (sequential, "mixed_bfloat16"),
    (sequential, "float8"),
)


@pytest.fixture(scope="module")
def trained():
    """Confident weights, and the images and classes of the test."""
    digits = load_digits()
    x, y = (digits.images[..., None] / 16 * 255).astype("uint8"), digits.target
    model = sequential()
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(x[:900], y[:900], epochs=6, batch_size=64, verbose=0)
    weights = model.get_weights()
    return [*weights[:-2], *(CONFIDENCE * w for w in weights[-2:])], x[900:1100], y[900:1100]


@pytest.fixture
def under_policy():
    """Builds a model under a global policy, with weights."""

    def build(kind, policy, weights):
        keras.config.set_dtype_policy(policy)
        try:
            model = kind()
        finally:
            keras.config.set_dtype_policy("float32")
        model.set_weights(weights)
        return model

    return build


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_is_the_float32_model_of_the_same_variables(trained, under_policy, kind, policy):
    weights, x, _ = trained
    model, expected = under_policy(kind, policy, weights), under_policy(kind, "float32", weights)
    state = [(layer.name, layer.dtype_policy.name, len(layer._inbound_nodes)) for layer in model._flatten_layers()]
    twin = float32_twin(model)
    assert all(a is b for a, b in zip(twin.weights, model.weights)) and len(twin.weights) == len(weights)
    assert not {layer.compute_dtype for layer in twin._flatten_layers()} & set(HALF)
    images = x[:20].astype("float32")
    tolerance = 0.02 if policy == "float16" else 1e-5  # its variables are in half precision
    largest = np.abs(expected(images)).max()
    np.testing.assert_allclose(twin(images), expected(images), rtol=1e-5, atol=tolerance * largest)
    after = [(layer.name, layer.dtype_policy.name, len(layer._inbound_nodes)) for layer in model._flatten_layers()]
    assert after == state, "nothing of the user's model has changed"
    assert float32_twin(model) is twin and float32_twin(twin) is twin and float32_twin(expected) is expected


@pytest.mark.parametrize(
    "kind, policy",
    [
        # Of each kind one policy, and of integers one.
        pytest.param(k, p, marks=[] if (k, p) in SHORT else pytest.mark.long)
        for k in KINDS
        for p in (*POLICIES, "int8", "int4", "float8")
    ],
)
def test_attacks_find_what_they_find_on_the_float32_model(trained, under_policy, kind, policy):
    weights, x, y = trained
    quantized = policy in ("int8", "int4", "float8")
    model, float32 = (
        under_policy(kind, "float32" if quantized else policy, weights),
        under_policy(kind, "float32", weights),
    )
    if quantized:
        model.quantize(policy)
    for attack in ("fgsm", "pgd(steps=5)"):
        own, expected = (
            tfadv.evaluate(classifier(m, (0, 255), quiet=True), x, y, attack, 0.2) for m in (model, float32)
        )
        # A quantized model is another one, of 16 levels per weight with int4.
        tolerated = {"int4": 20, "int8": 6, "float8": 6}.get(policy, 2)
        assert abs(int(own.robust.sum()) - int(expected.robust.sum())) <= tolerated
        assert not own.upper_bound()


def test_without_a_twin_the_loss_is_scaled_and_a_warning_says_so(trained, under_policy, caplog):
    weights, x, y = trained
    model = under_policy(own_casts, "mixed_float16", weights)
    images = tf.constant(x[:50], tf.float32)
    assert float32_twin(model) is None and "upper bound" in caplog.text
    _, gradient = logits_and_gradient(model, images, tf.constant(y[:50]))
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = tf.cast(model(images), tf.float32)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y[:50], logits=logits)
    plain = tape.gradient(loss, images)
    still, scaled = (int((np.abs(g).max((1, 2, 3)) == 0).sum()) for g in (plain.numpy(), gradient.numpy()))
    assert still > 5 and scaled < still / 2


def test_ones_own_tape_gets_the_float32_gradient(trained, under_policy):
    weights, x, y = trained
    images, labels = tf.constant(x[:50], tf.float32), tf.constant(y[:50])
    gradients = []
    for policy in ("mixed_float16", "float32"):
        model = classifier(under_policy(sequential, policy, weights), quiet=True)
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits_of(model, images))
        gradients.append(tape.gradient(loss, images).numpy())
    assert (np.sign(gradients[0]) == np.sign(gradients[1])).mean() > 0.98


def test_a_layer_that_is_used_twice_and_a_constant_training_argument_are_copied():
    shared, images = layers.Dense(4), keras.Input((8, 8, 4))
    x = shared(layers.Dropout(0.5)(shared(images), training=True))
    model = keras.Model(images, layers.Flatten()(x))
    copy = copy_of(model)
    assert copy.layers[1] is not model.layers[1] and all(a is b for a, b in zip(copy.weights, model.weights))
    assert len(copy.weights) == 2 and (copy(np.ones((1, 8, 8, 4))).numpy() != copy(np.ones((1, 8, 8, 4))).numpy()).any()


def test_a_policy_of_the_process_does_not_make_a_float32_model_half(under_policy):
    model = sequential()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = classifier(model, (0, 255), quiet=True)
        assert not needs_twin(made) and made.compute_dtype != "float32"
        own = [layer for layer in made.layers if not isinstance(layer, (keras.Model, layers.InputLayer))]
        assert own and all(layer.compute_dtype == "float32" for layer in own)
    finally:
        keras.config.set_dtype_policy("float32")


def test_threads_may_share_a_classifier_and_the_model_keeps_its_head():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")])
    made, x = classifier(model, quiet=True), np.random.default_rng(0).random((64, 8, 8, 1), np.float32)
    expected, outputs = made(x).numpy(), []

    def call():
        for _ in range(50):
            outputs.append(np.abs(made(x).numpy() - expected).max())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.layers[-1].activation is keras.activations.softmax
    np.testing.assert_allclose(model(x).numpy().sum(1), 1, rtol=1e-5)
    assert max(outputs) < 1e-6
