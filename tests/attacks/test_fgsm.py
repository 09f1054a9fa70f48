import gc
import weakref

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.attacks.conftest import batch
from tfadv.attacks import FGSM, gradient
from tfadv.attacks.fgsm import direction, logits_and_direction
from tfadv.runtime import compilation


def closed_form(x, y, w, b):
    """sign(W^T (p - y)) of softmax regression."""
    logits = x.reshape(len(x), -1) @ w + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.sign((p - np.eye(3)[y]) @ w.T).reshape(x.shape)


def test_equals_closed_form_on_linear_model(linear):
    model, w, b = linear
    x, y = batch(shape=(2, 2, 3), classes=3)
    expected = np.clip(x + 0.07 * closed_form(x, y, w, b), 0, 1)
    np.testing.assert_allclose(FGSM()(model, x, y, 0.07), expected, atol=1e-7)


def test_targeted_moves_the_other_way(linear):
    model, w, b = linear
    x, y = batch(shape=(2, 2, 3), classes=3)
    x = 0.2 + 0.6 * x  # no pixel is clipped
    expected = x - 0.07 * closed_form(x, y, w, b)
    np.testing.assert_allclose(FGSM(targeted=True)(model, x, y, 0.07), expected, atol=1e-7)


def test_loss_rises_on_a_linear_model_and_falls_for_a_target(linear):
    model, _, _ = linear
    x, y = batch(64, shape=(2, 2, 3), classes=3)

    def loss(images):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(images)).numpy()

    assert (loss(FGSM()(model, x, y, 0.1)) >= loss(x)).all()
    assert (loss(FGSM(targeted=True)(model, x, y, 0.1)) <= loss(x)).all()


@hypothesis.settings(max_examples=30)
@hypothesis.given(eps=st.floats(0, 1, width=32), seed=st.integers(0, 99), targeted=st.booleans())
def test_stays_within_eps_and_clip(tiny, eps, seed, targeted):
    x, y = batch(seed=seed)
    adversarial = FGSM(targeted=targeted)(tiny, x, y, eps).numpy()
    assert np.abs(adversarial - x).max() <= eps + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def test_eps_zero_is_the_image(tiny):
    x, y = batch()
    np.testing.assert_array_equal(FGSM()(tiny, x, y, 0.0), x)


def test_several_eps_are_the_single_ones(tiny):
    x, y = batch()
    many = FGSM()(tiny, x, y, [0.01, 0.02, 0.5]).numpy()
    assert many.shape == (3, *x.shape)
    for one, eps in zip(many, [0.01, 0.02, 0.5]):
        np.testing.assert_array_equal(one, FGSM()(tiny, x, y, eps))


@pytest.mark.parametrize("targeted", [False, True])
def test_one_pass_gives_the_logits_and_the_same_images(tiny, targeted):
    x, y = batch()
    attack, eps = FGSM(targeted=targeted), [0.0, 0.01, 0.5]
    logits, adversarial = tf.function(lambda *args: attack.one_pass(tiny, *args))(x, y, tf.constant(eps))
    np.testing.assert_allclose(logits, tiny(x), atol=1e-5)
    expected = attack(tiny, x, y, eps)
    assert adversarial.shape == expected.shape and (adversarial != expected).numpy().mean() < 1e-3


def test_eager_graph_and_xla_agree(tiny):
    x, y = batch(32)
    eager = logits_and_direction(tiny, tf.constant(x), tf.constant(y))[1].numpy()
    assert np.abs(eager).mean() > 0.9  # so that the comparison means something
    for jit in ("false", "true"):
        compilation.configure(jit_compile=jit)
        try:
            compiled = direction(tiny, x, y).numpy()
        finally:
            compilation.configure()
        assert (compiled != eager).mean() < 1e-3


def test_one_trace_for_many_eps_and_batch_sizes(tiny):
    x, y = batch()
    FGSM()(tiny, x, y, 0.1)
    (function,) = [f for (jit_compile, *_), f in direction._compiled[tiny].items() if not jit_compile]
    for n in (8, 5, 1):
        for eps in (0.01, 0.2, [0.1, 0.2], 1):
            FGSM()(tiny, x[:n], y[:n], eps)
    assert function.experimental_get_tracing_count() == 1


def test_model_is_left_alone(tiny):
    before = [w.copy() for w in tiny.get_weights()]
    x, y = batch()
    FGSM()(tiny, x, y, 0.3)
    for a, b in zip(before, tiny.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_result_does_not_depend_on_the_batch(tiny):
    x, y = batch(12)
    whole = FGSM()(tiny, x, y, 0.1).numpy()
    parts = np.concatenate([FGSM()(tiny, x[i : i + 5], y[i : i + 5], 0.1) for i in range(0, 12, 5)])
    assert (whole != parts).mean() < 1e-3


def test_accuracy_falls_along_eps(tiny):
    x, _ = batch(64)
    y = np.argmax(tiny(x), axis=1)  # an accuracy of 100% to begin with
    accuracy = [(np.argmax(tiny(a), axis=1) == y).mean() for a in FGSM()(tiny, x, y, [0, 0.02, 0.1])]
    assert accuracy[0] == 1 and accuracy[2] < accuracy[1] < 1


def test_nan_gradient_leaves_the_pixel():
    np.testing.assert_array_equal(gradient.sign(tf.constant([np.nan, -2.0, 0.0, np.inf])), [0, -1, 0, 1])


def test_compiled_function_does_not_keep_the_model_alive():
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    x, y = batch(3, (2, 2, 1), 2)
    FGSM()(model, x, y, 0.1)
    gone = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"eps": -0.1}, "eps must be"),
        ({"eps": float("nan")}, "eps must be"),
        ({"eps": []}, "eps must be"),
        ({"x": np.zeros((8, 16, 16, 3), "uint8")}, "float32"),
        ({"x": np.full((8, 16, 16, 3), 255.0, "float32")}, "in \\[0.0, 1.0\\]"),
        ({"x": np.zeros((8, 16, 16, 1), "float32")}, "shape"),
        ({"y": np.zeros(7, int)}, "one class number per image"),
        ({"y": np.full(8, 4)}, "class numbers from 0 to 3"),
        ({"clip": (1.0, 0.0)}, "clip"),
    ],
)
def test_bad_arguments_are_named(tiny, change, words):
    x, y = batch()
    arguments = {"x": x, "y": y, "eps": 0.1} | change
    with pytest.raises(ValueError, match=words):
        FGSM()(tiny, **arguments)


def test_a_subclassed_model_that_names_no_shape(linear):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = linear[0]

        def call(self, x, training=False):
            return self.inner(x, training=training)

    x, y = batch(shape=(2, 2, 3), classes=3)
    np.testing.assert_array_equal(FGSM()(Own(), x, y, 0.1), FGSM()(linear[0], x, y, 0.1))


def test_softmax_model_is_refused():
    model = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    )
    with pytest.raises(ValueError, match="needs? logits"):
        FGSM()(model, *batch(shape=(2, 2, 3), classes=3), 0.1)
