import numpy as np
import pytest
import tensorflow as tf

from tfadv.datasets import AUGMENTATIONS, augment


@pytest.fixture
def images():
    """Smooth images with an empty border, so that a shift moves nothing out of the image."""
    rng = np.random.default_rng(0)
    x = np.zeros((64, 32, 32, 3), "float32")
    x[:, 10:22, 10:22] = tf.image.resize(rng.uniform(0.2, 0.8, (64, 3, 3, 3)), (12, 12))
    return x


def center_of_mass(x):
    """(N, 2): center of mass, (row, column)."""
    mass, rows, columns = x.sum(axis=3), np.arange(x.shape[1]), np.arange(x.shape[2])
    total = mass.sum(axis=(1, 2))
    return np.stack([(mass.sum(axis=2) * rows).sum(1) / total, (mass.sum(axis=1) * columns).sum(1) / total], axis=1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_eager_and_graph_execution_agree(images, name):
    seed = tf.constant([5, 7])
    eager = augment.augment(tf.constant(images), seed, [name]).numpy()
    dataset = tf.data.Dataset.from_tensors(images).map(lambda x: augment.augment(x, seed, [name]))
    (in_graph,) = dataset.as_numpy_iterator()
    np.testing.assert_allclose(eager, in_graph, atol=1e-5)
    assert eager.dtype == np.float32 and eager.min() >= 0 and eager.max() <= 1
    unchanged = (eager == images).all(axis=(1, 2, 3))
    assert 0.25 < unchanged.mean() < 0.9  # half stay exactly as they are, and a flip leaves half of the others
    assert np.abs(eager[~unchanged] - images[~unchanged]).max() > 0.005
    other = augment.augment(tf.constant(images), tf.constant([5, 8]), [name]).numpy()
    assert (other != eager).any()


def changed(images, name, monkeypatch):
    monkeypatch.setattr(augment, "AUGMENTED_SHARE", 1.0)
    return augment.augment(tf.constant(images), tf.constant([0, 1]), [name]).numpy()


def test_flip_mirrors_about_half_of_the_images(images, monkeypatch):
    x = changed(images, "flip", monkeypatch)
    mirrored = np.array([np.allclose(a, b[:, ::-1], atol=1e-5) for a, b in zip(x, images)])
    same = np.array([np.allclose(a, b, atol=1e-5) for a, b in zip(x, images)])
    assert (mirrored | same).all() and 0.25 < mirrored.mean() < 0.75


def test_shift_moves_by_at_most_its_limit(images, monkeypatch):
    moved = center_of_mass(changed(images, "shift", monkeypatch)) - center_of_mass(images)
    assert 1.5 < np.abs(moved).max() <= augment.SHIFT * 32 + 0.05
    assert (moved > 0.5).any() and (moved < -0.5).any()


@pytest.mark.parametrize("name", ["rotation", "shear", "scaling"])
def test_the_center_of_mass_stays(name, monkeypatch):
    x = np.zeros((32, 33, 33, 1), "float32")
    x[:, 8:25, 13:20] = 1
    y = changed(x, name, monkeypatch)
    np.testing.assert_allclose(center_of_mass(y), center_of_mass(x), atol=0.3)
    mass = y.sum(axis=(1, 2, 3)) / x.sum(axis=(1, 2, 3))
    if name == "scaling":
        assert mass.max() > 1.1 and mass.min() < 0.9
        assert np.all(np.abs(mass - 1) < 0.27)
    else:
        np.testing.assert_allclose(mass, 1, atol=0.03)


def test_crop_enlarges(monkeypatch):
    x = np.zeros((32, 33, 33, 1), "float32")
    x[:, 14:19, 14:19] = 1
    mass = changed(x, "crop", monkeypatch).sum(axis=(1, 2, 3)) / 25
    assert mass.min() > 0.98 and 1.2 < mass.max() < 1.42


def test_shift_and_crop_are_shares_of_each_side(monkeypatch):
    x = np.zeros((256, 21, 61, 1), "float32")
    x[:, 9:12, 28:33] = 1
    moved = np.abs(center_of_mass(changed(x, "shift", monkeypatch)) - center_of_mass(x)).max(axis=0)
    np.testing.assert_allclose(moved, [augment.SHIFT * 21, augment.SHIFT * 61], rtol=0.1)
    moved = np.abs(center_of_mass(changed(x, "crop", monkeypatch)) - center_of_mass(x)).max(axis=0)
    np.testing.assert_allclose(moved, np.array([21, 61]) * augment.CROP / 2 / (1 - augment.CROP), rtol=0.35)


@pytest.mark.parametrize("name", ["rotation", "shear", "scaling", "flip"])
def test_the_center_of_mass_stays_where_sides_differ(name, monkeypatch):
    x = np.zeros((32, 33, 61, 1), "float32")
    x[:, 12:21, 26:35] = 1
    y = changed(x, name, monkeypatch)
    assert y.shape == x.shape
    np.testing.assert_allclose(center_of_mass(y), center_of_mass(x), atol=0.3)


def test_a_rotation_is_one_in_pixels(monkeypatch):
    """A bar turns by the same angle, and keeps its length, whatever the sides are."""
    square = np.zeros((64, 61, 61, 1), "float32")
    square[:, 15:46, 29:32] = 1
    wide = np.zeros((64, 61, 121, 1), "float32")
    wide[:, :, 30:91] = square
    turned = changed(wide, "rotation", monkeypatch)
    np.testing.assert_allclose(turned[:, :, 30:91], changed(square, "rotation", monkeypatch), atol=1e-3)


def test_brightness_adds_one_number_per_image(monkeypatch):
    x = np.full((32, 8, 8, 3), 0.5, "float32")
    difference = changed(x, "brightness", monkeypatch) - x
    assert np.ptp(difference, axis=(1, 2, 3)).max() < 1e-6
    assert 0.08 < np.abs(difference).max() <= augment.BRIGHTNESS + 1e-6


def test_standard_deviation_of_the_noise(monkeypatch):
    x = np.full((32, 16, 16, 3), 0.5, "float32")
    assert np.std(changed(x, "noise", monkeypatch) - x) == pytest.approx(augment.NOISE, rel=0.05)


def test_all_augmentations_together(images):
    x = augment.augment(tf.constant(images), tf.constant([1, 1]), AUGMENTATIONS).numpy()
    assert x.shape == images.shape and x.min() >= 0 and x.max() <= 1
