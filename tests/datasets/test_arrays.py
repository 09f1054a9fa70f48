"""Images and labels in every form that Keras takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.datasets.arrays import as_arrays, pixel_reader

X = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
Y = np.arange(10) % 3


class Batches(keras.utils.PyDataset):
    def __init__(self, weighted=False):
        super().__init__()
        self.weighted = weighted

    def __len__(self):
        return 4

    def __getitem__(self, i):
        rows = slice(3 * i, 3 * i + 3)
        return (X[rows], Y[rows], np.ones(len(Y[rows]))) if self.weighted else (X[rows], Y[rows])


@pytest.mark.parametrize(
    "x, y",
    [
        (X, Y),
        (X, Y.tolist()),
        (X, Y[:, None].astype("float32")),
        (X, np.eye(3)[Y]),
        (X, tf.one_hot(Y, 3)),
        (tf.data.Dataset.from_tensor_slices((X, Y)), None),
        (tf.data.Dataset.from_tensor_slices((X, tf.one_hot(Y, 3))).batch(4), None),
        (Batches(), None),
        (Batches(weighted=True), None),
    ],
)
def test_every_form_gives_the_same_arrays(x, y):
    images, labels = as_arrays(x, y)
    np.testing.assert_array_equal(images, X)
    np.testing.assert_array_equal(labels, Y)
    assert images.dtype == np.uint8 and labels.dtype == np.int64


def test_float_images_become_float32():
    for dtype in (np.float16, np.float32, np.float64):
        images, _ = as_arrays((X / 255).astype(dtype), Y)
        assert images.dtype == np.float32 and np.allclose(images, X / 255, atol=1e-3)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X, None, "y is missing"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), Y, "y must be None where x is a data set"),
        (tf.data.Dataset.from_tensor_slices(X), None, r"must yield \(images, labels\)"),
        (tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])), None, "at least one image"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).repeat(), None, "repeats without end"),
        (X, np.array(["a"] * 10), "one class number per image"),
        (X, Y + 0.5, "one class number per image"),
        (X, np.ones((10, 3)), "one class number per image"),
    ],
)
def test_what_is_missing_is_said(x, y, message):
    with pytest.raises(ValueError, match=message):
        as_arrays(x, y)


def test_later_whole_numbers_above_255_are_an_error_and_do_not_wrap_around():
    read = pixel_reader(np.array([[0, 200]], np.int32))
    np.testing.assert_array_equal(read(np.array([[255]], np.int32)), [[255]])
    for value in (300, -1):
        with pytest.raises(ValueError, match=f"must be from 0 to 255, got 7 to 300|got {value} to 7"):
            read(np.array([[value, 7]], np.int32))
