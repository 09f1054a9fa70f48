"""`tfadv.classifier` on every kind of Keras model: the same decisions, exact gradients, shared variables."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfadv
from tfadv.attacks.gradient import logits_and_gradient
from tfadv.models.accelerate import accelerated
from tfadv.models.logits import check_logits, classifier, original

SHAPE, CLASSES = (16, 16, 3), 5


def body(x):
    x = layers.Conv2D(8, 3, activation="relu", padding="same")(x)
    return layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))


def functional(head, shape=SHAPE):
    images = keras.Input(shape)
    return keras.Model(images, head(body(images)))


def sequential():
    return keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(6, 3), layers.Flatten(), layers.Dense(CLASSES, activation="softmax")]
    )


def branches():
    images = keras.Input(SHAPE)
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(images)
    b = layers.DepthwiseConv2D(3, padding="same")(images)
    x = layers.GlobalMaxPooling2D()(layers.Concatenate()([a, b, images]))
    return keras.Model(images, layers.Softmax()(layers.Dense(CLASSES)(x)))


def nested():
    head = keras.Sequential([keras.Input((8,)), layers.Dense(7), layers.Dense(CLASSES, activation="softmax")])
    features = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1 / 128)])
    images = keras.Input(SHAPE)
    return keras.Model(images, head(body(features(images))))


def attention():
    images = keras.Input(SHAPE)
    patches = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4)(images))
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(patches, patches) + patches)
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def group_norm():
    x = images = keras.Input(SHAPE)
    x = layers.GroupNormalization(2)(layers.Conv2D(8, 3)(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, ops.softmax(layers.Dense(CLASSES)(x)))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Its softmax is inside `call`, where nothing can take it off."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.pool, self.dense = layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)

    def call(self, x):
        return ops.softmax(self.dense(self.pool(self.conv(x))))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


KINDS = {
    "sequential": sequential,
    "branches": branches,
    "nested": nested,
    "attention": attention,
    "group norm": group_norm,
    "subclassed": subclassed,
    "softmax activation": lambda: functional(lambda h: layers.Activation("softmax")(layers.Dense(CLASSES)(h))),
    "cast after softmax": lambda: functional(
        lambda h: layers.Activation("linear", dtype="float32")(layers.Dense(CLASSES, activation="softmax")(h))
    ),
    "log softmax": lambda: functional(lambda h: layers.Dense(CLASSES, activation="log_softmax")(h)),
}


def build(kind):
    keras.utils.set_random_seed(1)
    return KINDS[kind]()


def images(n=6, shape=SHAPE):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(n, *shape)).astype("float32"), rng.integers(0, CLASSES, n)


def plain_gradient(model, x, y, low=0.0, high=1.0):
    """The gradient of the cross-entropy of the model's own probabilities, as a user would write it."""
    with tf.GradientTape() as tape:
        pixels = tf.constant(x)
        tape.watch(pixels)
        outputs = model(pixels * (high - low) + low, training=False)
        if model.name.endswith("log"):
            outputs = tf.exp(outputs)
        loss = tf.reduce_sum(keras.losses.sparse_categorical_crossentropy(y, tf.cast(outputs, tf.float32)))
    return tape.gradient(loss, pixels).numpy()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("input_range", [(0, 1), (0, 255), (-1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_probabilities_and_gradients_from_logits(kind, input_range):
    model, (x, y) = build(kind), images()
    low, high = input_range
    converted = classifier(model, input_range, quiet=True)
    logits, gradient = logits_and_gradient(converted, tf.constant(x), tf.constant(y))
    own = model(x * (high - low) + low, training=False).numpy()
    probabilities = np.exp(own) if kind == "log softmax" else own
    np.testing.assert_allclose(softmax(logits.numpy()), probabilities, atol=2e-6)
    assert logits.dtype == tf.float32 and converted.output_shape == (None, CLASSES) and original(converted) is model
    if kind != "log softmax":
        expected = plain_gradient(model, x, y, low, high)
        sure = (probabilities[np.arange(6), y] < 1e-4)[:, None, None, None]  # Keras' loss clips probabilities there
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.where(sure, 0, gradient), np.where(sure, 0, expected), atol=2e-4 * scale)
        optimized = accelerated(converted)
        _, faster = logits_and_gradient(optimized, tf.constant(x), tf.constant(y))
        np.testing.assert_allclose(faster, gradient, atol=2e-4 * scale)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("subclassed", "log softmax")])
def test_logits_are_exact_where_the_softmax_is_saturated(kind):
    """The largest logit beats the others by 1,000: the softmax has no gradient there, but the logits do."""
    model, (x, y) = build(kind), images()
    weights = model.get_weights()
    model.set_weights([*weights[:-2], weights[-2] * 1e6, weights[-1]])
    logits, gradient = logits_and_gradient(classifier(model, quiet=True), tf.constant(x), tf.constant((y + 1) % 5))
    assert np.ptp(logits, axis=1).max() > 500
    wrong = np.argmax(logits, axis=1) != (y + 1) % 5
    assert wrong.any() and np.isfinite(gradient).all() and (np.abs(gradient[wrong]).max(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("kind", ["sequential", "nested", "subclassed"])
def test_training_the_classifier_trains_the_model(kind):
    model = build(kind)
    converted = classifier(model, (-1, 1), quiet=True)
    assert {id(v) for v in converted.trainable_variables} == {id(v) for v in model.trainable_variables}
    before, (x, y) = model(2 * images()[0] - 1).numpy(), images(64)
    converted.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    converted.fit(x, y, batch_size=16, verbose=0)
    after = model(2 * images()[0] - 1, training=False).numpy()
    assert (before != after).any() and np.allclose(after.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(softmax(converted(images()[0]).numpy()), after, atol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_one_output_becomes_two_logits(activation):
    keras.utils.set_random_seed(2)
    model = functional(lambda h: layers.Dense(1, activation=activation)(50 * h))
    x, _ = images(32)
    model.layers[-1].bias.assign([-np.median(classifier(model, quiet=True)(x)[:, 1])])  # half of them positive
    logits = classifier(model, quiet=True)(x).numpy()
    own = model(x).numpy()[:, 0]
    assert logits.shape == (32, 2) and not logits[:, 0].any()
    positive = own > (0.5 if activation == "sigmoid" else 0)
    assert 10 < positive.sum() < 22
    np.testing.assert_array_equal(np.argmax(logits, axis=1), positive)
    if activation == "sigmoid":
        np.testing.assert_allclose(softmax(logits)[:, 1], own, atol=1e-6)


def test_mixed_precision_returns_float32_logits():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = functional(lambda h: layers.Dense(CLASSES, activation="softmax")(h))
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = images()
    logits, gradient = logits_and_gradient(classifier(model, quiet=True), tf.constant(x), tf.constant(y))
    assert model.output.dtype == "float16" and logits.dtype == tf.float32 and np.abs(gradient).max() > 0
    np.testing.assert_allclose(softmax(logits.numpy()), model(x), atol=2e-3)


def test_logits_stay_as_they_are_and_can_be_declared():
    model = functional(lambda h: layers.Dense(CLASSES)(h))
    x, _ = images()
    np.testing.assert_array_equal(classifier(model)(x), model(x))
    softmax_model = build("sequential")
    np.testing.assert_array_equal(classifier(softmax_model, outputs="logits")(x), softmax_model(x))


def test_what_is_not_visible_is_said(caplog):
    with caplog.at_level("INFO", logger="tfadv"):
        classifier(build("subclassed"))
        classifier(build("sequential"))
    first, second = (record.getMessage() for record in caplog.records)
    assert "its softmax is not visible" in first and "return the logits from the model" in first
    assert "the final softmax is removed" in second


def of_flat(shape):
    head = [layers.Flatten(), layers.Dense(CLASSES, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *head])


ENDS_IN_SOFTMAX = {
    **{kind: KINDS[kind] for kind in KINDS if kind not in ("subclassed", "log softmax")},
    "nested in Sequential": lambda: keras.Sequential([keras.Input(SHAPE), layers.Rescaling(255.0), sequential()]),
    "(N, H, W)": lambda: of_flat((8, 8)),
    "(N, D)": lambda: of_flat((48,)),
    "expectation": lambda: tfadv.expectation(nested(), 2),
}


@pytest.mark.parametrize("kind", ENDS_IN_SOFTMAX)
def test_attacks_refuse_a_visible_softmax_wherever_it_is(kind):
    model = ENDS_IN_SOFTMAX[kind]()
    x = images(shape=model.input_shape[1:])
    with pytest.raises(ValueError, match="ends in a softmax"):
        tfadv.evaluate(model, *x, "fgsm", eps=0.1)
    if kind == "expectation":
        return
    if len(model.input_shape) == 4:
        with pytest.raises(ValueError, match="ends in a softmax"):
            tfadv.ensemble([model, model])
    converted = classifier(model, quiet=True)
    for made in (converted, tfadv.expectation(converted), tfadv.ensemble([converted, converted])):
        check_logits(made)


class Weighted(keras.layers.Layer):
    """Logits; the softmax weighs the features."""

    def __init__(self):
        super().__init__()
        self.inner, self.activation = layers.Dense(CLASSES), keras.activations.softmax

    def call(self, x):
        return self.inner(x * self.activation(x))


class Gated(keras.Model):
    """Logits; the last one of its layers is not what it ends with."""

    def __init__(self):
        super().__init__()
        self.logits, self.gate = sequential(), layers.Dense(CLASSES, activation="softmax")

    def call(self, x):
        return ops.log(self.logits(x)) + self.gate(ops.mean(x, axis=(1, 2)))


@pytest.mark.parametrize("kind", ["layer", "model"])
def test_a_classifier_with_a_softmax_elsewhere_than_at_its_end_is_attacked(kind):
    x, y = images()
    model = Gated() if kind == "model" else functional(lambda h: Weighted()(h))
    model(x)
    for input_range in ((0, 1), (0, 255)):
        assert tfadv.evaluate(classifier(model, input_range, quiet=True), x, y, "fgsm", eps=0.1).n == 6
    with pytest.raises(ValueError, match=r"Attack tfadv.classifier\(model\)"):
        tfadv.evaluate(model, x, y, "fgsm", eps=0.1)


def test_an_unbuilt_model_needs_a_shape():
    with pytest.raises(ValueError, match="input shape of .* is unknown: call it once"):
        classifier(Subclassed())
    assert classifier(Subclassed(), input_shape=SHAPE, quiet=True).output_shape == (None, CLASSES)


def test_the_classifier_can_be_cloned(tmp_path):
    converted = classifier(build("nested"), (0, 255), quiet=True)
    clone = keras.models.clone_model(converted)
    clone.set_weights(converted.get_weights())
    x, _ = images()
    np.testing.assert_allclose(clone(x), converted(x), atol=1e-6)


class SoftmaxOfItsOwn(keras.layers.Layer):
    """Has an activation and weights, but no kernel, and may not use the activation."""

    def __init__(self, uses_it):
        super().__init__()
        self.inner, self.activation, self.uses_it = layers.Dense(CLASSES), keras.activations.softmax, uses_it

    def call(self, x):
        return (self.activation if self.uses_it else ops.softmax)(self.inner(x))


@pytest.mark.parametrize("uses_it", [True, False])
def test_a_layer_that_only_looks_like_a_softmax_is_kept(uses_it):
    keras.utils.set_random_seed(0)
    model = functional(lambda h: SoftmaxOfItsOwn(uses_it)(h))
    x, y = images()
    converted = classifier(model, quiet=True)
    np.testing.assert_allclose(softmax(converted(x).numpy()), model(x), atol=1e-6)
    _, gradient = logits_and_gradient(converted, tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(gradient, plain_gradient(model, x, y), atol=1e-6)


def test_the_output_of_a_nested_model_that_is_used_is_converted():
    keras.utils.set_random_seed(0)
    features = keras.Input((8,))
    heads = [layers.Dense(CLASSES, activation="softmax")(features) for _ in range(2)]
    model = functional(lambda h: keras.Model(features, heads)(h)[1])
    x, _ = images()
    np.testing.assert_allclose(softmax(classifier(model, quiet=True)(x).numpy()), model(x), atol=1e-6)


def two_outputs():
    images = keras.Input(SHAPE)
    h = body(images)
    return keras.Model(images, [layers.Dense(2)(h), layers.Dense(2)(h)])


MALFORMED = {
    "not a model": (lambda: len, "must be a keras.Model"),
    "two outputs": (two_outputs, "has 2 outputs. Choose that of the classes"),
    "videos": (
        lambda: keras.Sequential([keras.Input((4, 8, 8, 3)), layers.Flatten(), layers.Dense(2)]),
        r"must take one batch of images, .*; it takes \(N, 4, 8, 8, 3\)",
    ),
    "integers": (
        lambda: keras.Sequential([keras.Input(SHAPE, dtype="uint8"), layers.Flatten(), layers.Dense(2)]),
        "takes uint8 images, which have no gradient",
    ),
    "segmentation": (lambda: keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 1)]), "one row of outputs"),
    "range": (lambda: build("sequential"), r"input_range must be the pair \(least, greatest\)"),
    "outputs": (lambda: build("sequential"), "outputs must be one of"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_models_that_are_no_image_classifiers_are_refused(case):
    make, message = MALFORMED[case]
    options = {"range": {"input_range": (1, 0)}, "outputs": {"outputs": "odds"}}.get(case, {})
    with pytest.raises(ValueError, match=message):
        classifier(make(), **options)


APPLICATIONS = sorted(name for name, value in vars(keras.applications).items() if inspect.isfunction(value))


@pytest.mark.long
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_of_keras_are_attacked_with_the_gradients_of_a_plain_tape(name):
    keras.utils.set_random_seed(0)
    size = 75 if name in ("Xception", "InceptionV3", "InceptionResNetV2") else 32
    if name == "EfficientNetV2S":  # on smaller images, its logits are so large that the gradients vanish
        size = 64
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=CLASSES)
    x, _ = images(2, (size, size, 3))
    for layer in model.layers:  # with the statistics of new models, the outputs of deep ones hardly depend on the image
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(255 * images(8, (size, size, 3))[0], training=True)
    converted = classifier(model, (0, 255), quiet=True)
    y = np.argmax(converted(x), axis=1)  # an image that is misclassified already would stay as it is
    _, gradient = logits_and_gradient(converted, tf.constant(x), tf.constant(y))
    expected = plain_gradient(model, x, y, 0, 255)
    np.testing.assert_allclose(gradient, expected, atol=1e-3 * np.abs(expected).max())
    for attack in (tfadv.attacks.FGSM(), tfadv.attacks.PGD(steps=2)):
        adversarial = attack(converted, x, y, eps=0.1).numpy()
        assert 0 < np.abs(adversarial - x).max() <= 0.1 + 1e-6
