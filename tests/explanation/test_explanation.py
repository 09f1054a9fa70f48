"""Explanations of models whose gradients are known in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfadv
from tfadv.errors import UserError
from tfadv.explanation import Explanation, grad_cam, loss_surface, saliency, vulnerability

SHAPE = (6, 6, 2)


@pytest.fixture(scope="module")
def linear():
    """(model, weights (72, 3)) of a linear classifier."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3, use_bias=False)])
    return model, model.layers[-1].kernel.numpy()


@pytest.fixture(scope="module")
def images(linear):
    """Images away from 0 and 1, and the classes that the linear model predicts, one of them changed."""
    x = np.random.default_rng(1).uniform(0.3, 0.7, (12, *SHAPE)).astype("float32")
    y = np.argmax(linear[0](x), axis=1)
    y[0] = (y[0] + 1) % 3
    return x, y


def runner_up(logits, y):
    other = np.where(np.eye(3, dtype=bool)[y], -np.inf, logits)
    return other.argmax(axis=1)


def test_the_estimate_is_exact_for_a_linear_model_of_two_classes(images):
    x, _ = images
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(2, use_bias=False)])
    kernel = model.layers[-1].kernel.numpy()
    logits = x.reshape(len(x), -1) @ kernel
    y = logits.argmax(axis=1)
    found = vulnerability(model, x, y, largest=0.25)
    norm = np.abs(kernel[:, 0] - kernel[:, 1]).sum()
    np.testing.assert_allclose(found.gradient_norm, norm, rtol=1e-5)
    np.testing.assert_allclose(found.margin, np.abs(logits[:, 0] - logits[:, 1]), rtol=1e-4, atol=1e-6)
    near = found.estimate < 0.2  # farther images leave [0, 1]
    assert near.sum() > 3
    np.testing.assert_allclose(found.smallest_eps[near], found.estimate[near], rtol=0.01)
    assert (found.smallest_eps[near] >= found.estimate[near] - 1e-5).all()
    assert found.correlation > 0.99


def test_margin_and_gradient_are_those_of_the_nearest_other_class(linear, images):
    (model, kernel), (x, y) = linear, images
    logits = model(x).numpy()
    other = runner_up(logits, y)
    found = vulnerability(model, x, y, largest=0.1, batch_size=5)
    rows = np.arange(len(y))
    np.testing.assert_allclose(found.margin, logits[rows, y] - logits[rows, other], atol=1e-5)
    np.testing.assert_allclose(found.gradient_norm, np.abs(kernel[:, y] - kernel[:, other]).sum(axis=0), rtol=1e-4)
    assert found.margin[0] < 0 and found.smallest_eps[0] == 0
    assert found.medians()["margin"] == pytest.approx(np.median(found.margin[1:]))


def test_images_that_no_perturbation_fools(images):
    x, _ = images
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(2, kernel_initializer="zeros")])
    model.layers[-1].bias.assign([1.0, 0.0])
    found = vulnerability(model, x, np.zeros(len(x), int))
    assert np.isinf(found.smallest_eps).all() and np.isnan(found.correlation)
    assert np.isnan(vulnerability(model, x, np.ones(len(x), int)).medians()["margin"])


@pytest.mark.parametrize("change", [{"largest": 0}, {"largest": 2}, {"steps": 0}, {"batch_size": 0}])
def test_arguments_out_of_range(linear, images, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        vulnerability(linear[0], *images, **change)


def test_saliency_of_a_linear_model(linear, images):
    (model, kernel), (x, y) = linear, images
    p = tf.nn.softmax(model(x)).numpy() - np.eye(3)[y]  # gradient of the cross-entropy with respect to the logits
    expected = np.abs(p @ kernel.T).reshape(len(x), *SHAPE).max(axis=-1)
    np.testing.assert_allclose(saliency(model, x, y), expected, atol=1e-5)


def test_the_loss_surface_of_a_linear_model(linear, images):
    (model, _), (x, y) = linear, images
    surface = loss_surface(model, x, y, eps=0.1, points=5)
    assert surface.shape == (len(x), 5, 5)
    loss = keras.losses.sparse_categorical_crossentropy
    np.testing.assert_allclose(surface[:, 2, 2], loss(y, model(x), from_logits=True), rtol=1e-4)
    attacked = tfadv.attacks.FGSM()(model, x, y, 0.1)
    np.testing.assert_allclose(surface[:, 4, 2], loss(y, model(attacked), from_logits=True), rtol=1e-4)
    assert (np.diff(surface[:, :, 2], axis=1) > 0).all()  # uphill
    assert np.array_equal(surface, loss_surface(model, x, y, eps=0.1, points=5))
    assert not np.array_equal(surface, loss_surface(model, x, y, eps=0.1, points=5, seed=1))


def cam_model(nested):
    """Class k is the mean of channel k after a 1×1 convolution that keeps the channels."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(3, 1, use_bias=False)])
    inner.layers[-1].kernel.assign(np.eye(3, dtype="float32")[None, None])
    images = keras.Input((8, 8, 3))
    features = inner(images) if nested else inner.layers[-1](images)
    outputs = layers.Dense(3, use_bias=False, kernel_initializer="identity")(layers.GlobalAveragePooling2D()(features))
    return keras.Model(images, outputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = cam_model(nested=True)

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize("make", [lambda: cam_model(False), lambda: cam_model(True), Subclassed])
def test_grad_cam_shows_where_the_channel_of_the_class_is_bright(make):
    model = make()
    x = np.zeros((2, 8, 8, 3), "float32")
    x[0, 1:3, 4:6, 2], x[1, 6, 6, 0] = 0.5, 0.25
    cam = grad_cam(model, x, [2, 1])
    np.testing.assert_allclose(cam[0], x[0, :, :, 2] / 0.5, atol=1e-6)
    np.testing.assert_array_equal(cam[1], 0)  # nothing speaks for class 1
    assert "call" not in vars(next(iter(model._flatten_layers(include_self=False))))
    np.testing.assert_allclose(model(x), x.mean(axis=(1, 2)), atol=1e-6)


def test_grad_cam_takes_maps_that_are_not_too_coarse():
    keras.utils.set_random_seed(0)
    model = tfadv.models.build("resnet18", (32, 32, 1), 10)
    cam = grad_cam(model, np.random.default_rng(0).random((10, 32, 32, 1), np.float32), np.arange(10))
    assert cam.shape == (10, 32, 32) and cam.max() == 1
    assert all(len(np.unique(own)) > 1 for own in cam if own.any())  # ResNet18's last maps have one pixel


def test_grad_cam_needs_feature_maps(images):
    model = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(ValueError, match="has no feature maps"):
        grad_cam(model, *images)


def test_an_explanation_survives_saving(tmp_path):
    model, x = cam_model(nested=True), np.random.default_rng(0).random((6, 8, 8, 3), np.float32)
    y = np.argmax(model(x), axis=1)
    found = tfadv.explain(model, x, y, 0.1, shown=[4, 1], points=3)
    assert (
        found.images.shape == (2, 2, 8, 8, 3)
        and found.surface.shape == (2, 3, 3)
        and len(found.vulnerability.margin) == 6
    )
    np.testing.assert_array_equal(found.images[0], x[[4, 1]])
    assert 0 < np.abs(found.images[1] - found.images[0]).max() <= 0.1 + 1e-6
    assert (found.classes[0] == y[[4, 1]]).all() and found.labels.tolist() == y[[4, 1]].tolist()
    found.save(tmp_path / "explanation.npz")
    loaded = Explanation.load(tmp_path / "explanation.npz")
    assert loaded.eps == found.eps
    for name in ("images", "labels", "classes", "saliency", "cam", "surface"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(found, name))
    assert loaded.vulnerability.medians() == found.vulnerability.medians()


def test_a_model_without_feature_maps_is_explained_without_grad_cam(linear, images):
    found = tfadv.explain(linear[0], *images, points=2)
    assert np.isnan(found.cam).all() and len(found.labels) == 4
    with pytest.raises(ValueError, match="eps must be one number greater than 0"):
        tfadv.explain(linear[0], *images, eps=0)


def test_explain_refuses_a_random_model_before_it_looks_at_images(linear):
    with pytest.raises(UserError, match="explain measures the distance .* random model"):
        tfadv.explain(tfadv.expectation(linear[0]), None)


def test_explain_takes_images_in_every_form(images):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()])
    y = images[1]
    x = np.round(images[0] * 255).astype("uint8")
    expected = tfadv.explain(model, x.astype("float32") / 255, y, points=3)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    for given in ((x, y), (x, np.eye(3)[y]), (data,)):
        found = tfadv.explain(model, *given, points=3)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.vulnerability.smallest_eps, expected.vulnerability.smallest_eps)
