"""Files with arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfadv.datasets import npz_file
from tfadv.errors import UserError

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 9, 9, 3), dtype=np.uint8), np.arange(20) % 4


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    "y, names",
    [
        (Y, ["0", "1", "2", "3"]),
        (Y[:, None].astype(np.uint8), ["0", "1", "2", "3"]),
        (np.eye(4, dtype=np.float32)[Y], ["0", "1", "2", "3"]),
        (Y * 10 - 5, ["-5", "5", "15", "25"]),
        (np.array(["ape", "bee", "cat", "dog"])[Y], ["ape", "bee", "cat", "dog"]),
    ],
)
def test_labels_of_every_form(tmp_path, y, names):
    dataset = npz_file.load(saved(tmp_path, x=X, y=y), 0)
    np.testing.assert_array_equal(dataset.images, X)
    np.testing.assert_array_equal(dataset.labels, Y)
    assert dataset.class_names == names and dataset.labels.dtype == np.int64


def test_classes_without_images_and_the_order_of_names(tmp_path):
    few = Y % 2
    assert npz_file.load(saved(tmp_path, x=X, y=np.eye(5)[few]), 0).class_names == list("01234")
    dataset = npz_file.load(saved(tmp_path, x=X, y=few, class_names=np.array(["a", "b", "c"])), 0)
    assert dataset.class_names == ["a", "b", "c"] and dataset.labels.tolist() == few.tolist()
    words = np.array(["dog", "cat"])
    dataset = npz_file.load(saved(tmp_path, x=X, y=words[few], class_names=words), 0)
    assert dataset.class_names == ["dog", "cat"] and dataset.labels.tolist() == few.tolist()


def test_float_and_grey_images(tmp_path):
    dataset = npz_file.load(saved(tmp_path, x=X[..., 0] / np.float32(255), y=Y), 0)
    np.testing.assert_array_equal(dataset.images, X[..., :1])


def test_train_and_test_arrays_as_keras_stores_them(tmp_path):
    dataset = npz_file.load(saved(tmp_path, x_train=X[:15], y_train=Y[:15], x_test=X[15:], y_test=Y[15:]), 18)
    assert dataset.official_splits == {"train": range(15), "test": range(15, 20)}
    assert dataset.images.shape == (20, 18, 18, 3) and dataset.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": X}, "must hold x, y; it holds x"),
        ({"x": X, "y": Y[:-1]}, "x has 20 images and y has 19 labels"),
        ({"x": X[:, 0, 0], "y": Y}, r"x must be images .*; its shape is \(20, 3\)"),
        ({"x": X[..., :2], "y": Y}, "x must be images"),
        ({"x": X.astype(np.float32), "y": Y}, r"x must be uint8, or float in \[0, 1\]; it is float32 from 0 to 255"),
        ({"x": X.astype(np.int32), "y": Y}, "x must be uint8"),
        ({"x": X, "y": Y / 3}, "y must be class numbers"),
        ({"x": X, "y": np.zeros((20, 4))}, "y must be class numbers"),
        ({"x": X, "y": 0 * Y}, "two classes or more; it has 1"),
        ({"x": X[:, :5], "y": Y}, "not square but 5x9: give --image_size"),
        ({"x": X, "y": Y, "class_names": np.array(["a"])}, "4 classes and 1 class_names"),
        ({"x": X[:0], "y": Y[:0]}, "x must be images"),
        ({"x": np.array([None] * 20), "y": Y}, "without Python objects"),
        (
            {"x": X, "y": np.array(["a", "b"])[Y % 2], "class_names": np.array(["a", "c"])},
            "not in class_names: b",
        ),
        ({"x_train": X, "y_train": Y, "x_test": X}, "must hold x_train, y_train, x_test, y_test"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, "images of different shapes"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        npz_file.load(saved(tmp_path, **arrays), 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_end_in_one_line_or_are_read(tmp_path_factory, data):
    path = saved(tmp_path_factory.mktemp("npz"), x=X[:, :2, :2], y=Y)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        npz_file.load(path, 0)
    except UserError as error:
        assert str(path) in str(error)


def test_another_kind_of_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UserError, match="can't be read as an .npz file"):
        npz_file.load(tmp_path / "x.npy", 0)
