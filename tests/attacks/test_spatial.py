"""The worst of rotations and translations."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

import tfadv
from tests.attacks.conftest import is_right, of_range, perceptron
from tfadv.attacks import Spatial
from tfadv.attacks.resampling import bilinear
from tfadv.attacks.spatial import transformed


def reference(image, degrees, down, right):
    """Rotated about the centre, then shifted, by SciPy."""
    angle, centre = np.deg2rad(degrees), (np.array(image.shape[:2]) - 1) / 2
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = centre - back @ (centre + [down, right])
    wide = np.pad(image.astype(float), ((2, 2), (2, 2), (0, 0)))  # SciPy does not interpolate to what is outside
    offset += 2 - back @ [2, 2]
    moved = [scipy.ndimage.affine_transform(wide[..., c], back, offset, order=1) for c in range(image.shape[2])]
    return np.stack(moved, axis=2)[2:-2, 2:-2]


@pytest.mark.parametrize("change", [(0, 0, 0), (30, 0, 0), (-17.5, 1.5, -3), (0, -2, 0.5), (180, 0, 0), (90, 1, 2)])
def test_changes_are_those_of_scipy(change):
    x = np.random.default_rng(0).uniform(size=(2, 9, 13, 3)).astype("float32")
    moved = transformed(tf.constant(x), tf.constant([change, (0, 0, 0)], tf.float32)).numpy()
    np.testing.assert_allclose(moved[0], reference(x[0], *change), atol=2e-5)
    np.testing.assert_array_equal(moved[1], x[1])


@pytest.mark.parametrize("border, mode", [("zero", "grid-constant"), ("reflect", "reflect"), ("mirror", "mirror")])
def test_bilinear_is_that_of_scipy(border, mode):
    rng = np.random.default_rng(0)
    x, rows, columns = rng.uniform(size=(2, 6, 5, 1)), rng.uniform(-9, 14, (2, 4, 7)), rng.uniform(-9, 14, (2, 4, 7))
    found = bilinear(*(tf.constant(each, tf.float32) for each in (x, rows, columns)), border)
    for i in range(2):
        expected = scipy.ndimage.map_coordinates(x[i, ..., 0], (rows[i], columns[i]), order=1, mode=mode)
        np.testing.assert_allclose(found[i, ..., 0], expected, atol=1e-5)


def losses(model, x, y):
    return -np.log(np.exp(model(x).numpy())[np.arange(len(y)), y] / np.exp(model(x).numpy()).sum(1))


@pytest.fixture(scope="module")
def shown():
    """(model, images (24, 8, 10, 2), labels, of which the last two are wrong)."""
    model, rng = perceptron(3, (8, 10, 2), seed=3), np.random.default_rng(2)
    x = scipy.ndimage.gaussian_filter(rng.normal(size=(24, 8, 10, 2)), (0, 2, 2, 0))
    x = (0.5 + 0.5 * x / np.abs(x).max(axis=(1, 2, 3), keepdims=True)).astype("float32")
    y = np.argmax(model(x), axis=1)
    y[-2:] = (y[-2:] + 1) % 3
    return model, x, y


@pytest.mark.parametrize("rotation, translation", [(30, 0.1), (15, 0), (0, 0.2)])
def test_is_the_worst_of_the_grid(shown, rotation, translation):
    model, x, y = shown
    attack = Spatial(rotation=rotation, translation=translation, angles=5, shifts=3)
    found = attack(model, x, y, None, batch_size=7).numpy()
    shifts = [np.linspace(-1, 1, 3) * round(translation * side) for side in (8, 10)]
    grid = [(a, b, c) for a in np.linspace(-rotation, rotation, 5) for b in shifts[0] for c in shifts[1]]
    tried = np.stack([[reference(image, *change) for image in x] for change in grid]).astype("float32")
    right = np.stack([is_right(model, images, y) for images in tried])
    np.testing.assert_array_equal(is_right(model, found, y), right.all(axis=0) & is_right(model, x, y))
    robust = np.flatnonzero(is_right(model, found, y))
    greatest = np.max([losses(model, images, y) for images in tried], axis=0)
    np.testing.assert_allclose(losses(model, found, y)[robust], greatest[robust], rtol=1e-3)
    np.testing.assert_array_equal(found[-2:], x[-2:])  # wrong as they are


def test_robust_images_are_right_without_a_change(shown):
    result = tfadv.evaluate(*shown, "spatial(rotation=9, translation=0, angles=4)")  # a grid without the image itself
    assert result.eps is None and result.distances is None and not (result.robust & ~result.clean_correct).any()
    assert 0 < result.robust_accuracy < result.clean_accuracy < 1
    assert f"spatial: {result.robust_accuracy:.1%} robust" in result.summary()


def test_random_changes_depend_on_the_image_and_more_of_them_are_stronger(shown):
    model, x, y = shown
    attack = Spatial(samples=2, rotation=30, translation=0)
    whole = attack(model, x, y, None, seed=1).numpy()
    for rows in (np.arange(5), np.arange(5, 24)):
        part = attack(model, x[rows], y[rows], None, seed=1, image_numbers=rows)
        np.testing.assert_allclose(part, whole[rows], atol=1e-6)
    assert (attack(model, x, y, None, seed=2).numpy() != whole).any()
    more = Spatial(samples=30, rotation=30, translation=0)(model, x, y, None, seed=1)
    assert is_right(model, more, y).sum() < is_right(model, whole, y).sum()


def test_black_is_the_least_value_of_a_pixel(shown):
    model, x, y = shown
    attack, scaled = Spatial(angles=3, shifts=3), of_range(model, -1.0, 1.0)
    found = attack(scaled, 2 * x - 1, y, None, clip=(-1.0, 1.0))
    np.testing.assert_allclose(found, 2 * attack(model, x, y, None) - 1, atol=1e-5)
    assert (found.numpy() == -1).any()


def test_without_room_nothing_moves(shown):
    model, x, y = shown
    np.testing.assert_allclose(Spatial(rotation=0, translation=0.04)(model, x, y, None), x, atol=1e-6)
