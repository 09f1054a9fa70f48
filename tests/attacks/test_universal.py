"""One patch for all images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right
from tfadv.attacks import place, universal_patch


def test_the_best_content_where_places_do_not_matter():
    """With the same weights at each pixel, a patch is best at 0 or 1, as the sign of the weights says."""
    model = keras.Sequential([keras.Input((6, 5, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    model.set_weights([np.array([[1.0, -1.0], [-0.5, 0.5], [0.1, -0.1]]), np.array([0.0, 0.5])])
    x = np.random.default_rng(0).uniform(size=(20, 6, 5, 3)).astype("float32")
    y = np.full(20, 1)
    for target, best in ((None, [1, 0, 1]), (0, [1, 0, 1]), (1, [0, 1, 0])):
        patch = universal_patch(model, x, y, 0.2, target=target, steps=60)
        assert patch.shape == (2, 2, 3) and patch.dtype == np.float32
        np.testing.assert_array_equal(patch, np.broadcast_to(np.array(best, "float32"), (2, 2, 3)))


def test_content_is_best_over_all_places():
    """On three rows, each row of the patch lies on the second, which lowers the gain, as often as on another."""
    model = keras.Sequential([keras.Input((3, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.repeat([1.0, -0.5, 1.0], 2)
    model.set_weights([np.stack([w, -w], axis=1), np.array([0.0, 2.0])])
    x = np.random.default_rng(0).uniform(size=(40, 3, 2, 1)).astype("float32")
    np.testing.assert_array_equal(universal_patch(model, x, np.ones(40, int), 0.5, steps=60), np.ones((2, 2, 1)))


def test_fools_the_model_on_other_images_more_than_noise(small):
    model, x, y = small
    noise = np.random.default_rng(1).uniform(size=(3, 3, 2)).astype("float32")
    patch = universal_patch(model, x[:20], y[:20], 0.25, steps=100)
    np.testing.assert_array_equal(patch, universal_patch(model, x[:20], y[:20], 0.25, steps=100))
    assert (patch != universal_patch(model, x[:20], y[:20], 0.25, steps=100, seed=1)).any()
    levels = np.round(255 * x[:20]).astype(np.uint8)
    of_levels, of_floats = (
        universal_patch(model, each, y[:20], 0.25, steps=5) for each in (levels, levels / np.float32(255))
    )
    np.testing.assert_array_equal(of_levels, of_floats)
    np.testing.assert_array_equal(of_levels, universal_patch(model, tf.constant(levels), y[:20], 0.25, steps=5))
    fooled = [np.mean([is_right(model, place(p, x[20:], seed), y[20:]) for seed in range(20)]) for p in (noise, patch)]
    assert fooled[1] < fooled[0] - 0.1


def test_each_image_has_a_place_of_its_own():
    x = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 1), dtype=np.uint8)
    patch = np.full((2, 2, 1), 0.5, "float32")
    x[x == 128] = 0
    placed = place(patch, x, seed=3)
    np.testing.assert_array_equal(placed[:7], place(patch, x[:7], seed=3))
    np.testing.assert_array_equal((placed != x).sum(axis=(1, 2, 3)), 4)
    assert placed.dtype == np.uint8 and set(placed[placed != x]) == {128}
    corners = {tuple(np.argwhere(each != image)[0]) for each, image in zip(placed, x)}
    assert corners == {(row, column, 0) for row in range(4) for column in range(3)}
    assert (place(patch, x, seed=4) != placed).any()
    of_float = place(patch, x.astype("float32") / 255, seed=3)
    np.testing.assert_array_equal(of_float == 0.5, placed == 128)


def test_what_does_not_fit_is_refused(small):
    model, x, y = small
    with pytest.raises(ValueError, match=r"\(7, 7, 2\) does not fit into images of shape \(40, 6, 6, 2\)"):
        place(np.zeros((7, 7, 2)), x)
    with pytest.raises(ValueError, match="size"):
        universal_patch(model, x, y, 0.0)
    with pytest.raises(ValueError, match="class numbers from 0 to 4"):
        universal_patch(model, x, y, target=5)
    with pytest.raises(ValueError, match="one image or more"):
        universal_patch(model, x[:0], y[:0])
    for wrong in (255 * x, np.round(255 * x).astype(int)):
        with pytest.raises(ValueError, match="x must be"):
            place(np.zeros((2, 2, 2), "float32"), wrong)
    flat = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(5, kernel_initializer="zeros")]
    )
    with pytest.raises(ValueError, match="gradient of the model is zero"):
        universal_patch(flat, x, y)
