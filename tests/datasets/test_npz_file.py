"""Files with arrays."""

import re

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
        (Y.astype(np.float32), ["0", "1", "2", "3"]),
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


BITS = (X > 99).astype(np.uint8)


@pytest.mark.parametrize(
    "x, images, said",
    [
        (X, X, ""),
        (X.astype(np.float64) / 255, X, "float64 from 0 to 1, and are read with 0 as black and 1 as white, in"),
        (BITS, 255 * BITS, "uint8 from 0 to 1, and are read with 0 as black and 1 as white; if this is wrong"),
        (BITS.astype(bool), 255 * BITS, "bool from 0 to 1, and are read with 0 as black and 1 as white, in"),
        (BITS.astype(np.int64), 255 * BITS, "int64 from 0 to 1, and are read with 0 as black and 1 as white; if"),
        (BITS.astype(np.float32), 255 * BITS, "float32 from 0 to 1, and are read with 0 as black and 1 as white, in"),
        (0 * X, 0 * X, ""),  # black images are no guess
        (X.astype(np.int16), X, "int16 from 0 to 255, and are read with 0 as black and 255 as white, in"),
        (X.astype(np.int32), X, "int32 from 0 to 255"),
        (X.astype(np.int64), X, "int64 from 0 to 255"),
        (X.astype(np.uint16), X, "uint16 from 0 to 255"),
        (X.astype(np.float32), X, "float32 from 0 to 255, and are read with 0 as black and 255 as white, in"),
        (X.astype(np.float16), X, "float16 from 0 to 255"),
        (np.clip(X + 0.4, 0, 255), X, "float64 from 0.4 to 255, and are read with 0 as black and 255 as white, in"),
        (X / 127.5 - 1, X, "float64 from -1 to 1, and are read with -1 as black and 1 as white, in"),
        ((X / 127.5 - 1).astype(np.float32), X, "float32 from -1 to 1"),
        (X / 250 - 0.01, np.clip(np.round((X / 250 - 0.01) * 255), 0, 255), "-0.01 to 1.01, .* 1 as white; if this is"),
        (
            np.where(X > 250, 260.0, X),
            np.where(X > 250, 255, X),
            "0 to 260, and are read with 0 as black and 255 as white; if",
        ),
        (X // 16, X // 16, "uint8 from 0 to 15, and are read with 0 as black and 255 as white; if this is wrong"),
        (X // 16 + 0.0, X // 16, "float64 from 0 to 15, and are read with 0 as black and 255 as white; if this is"),
        ((X // 2).astype(np.int8), X // 2, "int8 from 0 to 127, and are read with 0 as black and 255 as white; if"),
    ],
)
def test_the_range_of_pixels_is_seen_and_said(tmp_path, caplog, x, images, said):
    with caplog.at_level("INFO", logger="tfadv"):
        dataset = npz_file.load(saved(tmp_path, x=x, y=Y), 0)
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.images.dtype == np.uint8 and [bool(re.search(said, r.getMessage())) for r in caplog.records] == (
        [True] if said else []
    )
    assert all((r.levelname == "WARNING") == ("if this is wrong" in r.getMessage()) for r in caplog.records)


def test_training_and_test_images_are_read_in_the_same_range(tmp_path):
    dark = np.minimum(X, 1)
    dataset = npz_file.load(saved(tmp_path, x_train=X, y_train=Y, x_test=dark, y_test=Y), 0)
    np.testing.assert_array_equal(dataset.images, np.concatenate([X, dark]))
    dataset = npz_file.load(saved(tmp_path, x_train=X, y_train=Y, x_test=X / 255, y_test=Y), 0)  # of two types
    np.testing.assert_array_equal(dataset.images, np.concatenate([X, X]))


def test_validation_arrays_are_a_split(tmp_path):
    arrays = {f"{name}_{split}": own for split in ("train", "val", "test") for name, own in (("x", X), ("y", Y))}
    dataset = npz_file.load(saved(tmp_path, **arrays), 0)
    assert dataset.official_splits == {"train": range(20), "validation": range(20, 40), "test": range(40, 60)}
    only = npz_file.load(saved(tmp_path, x_test=X, y_test=Y), 0)
    assert only.official_splits == {"test": range(20)}
    del arrays["y_val"]
    with pytest.raises(UserError, match="must hold x_train, y_train, x_val, y_val, x_test, y_test"):
        npz_file.load(saved(tmp_path, **arrays), 0)


def test_images_need_not_be_square(tmp_path):
    path = saved(tmp_path, x=X[:, :5], y=Y)
    np.testing.assert_array_equal(npz_file.load(path, 0).images, X[:, :5])
    np.testing.assert_array_equal(npz_file.load(path, "5x9").images, X[:, :5])
    padded = npz_file.load(path, "7x12", "pad").images
    np.testing.assert_array_equal(padded, np.pad(X[:, :5], ((0, 0), (1, 1), (1, 2), (0, 0))))
    assert npz_file.load(path, 9, "resize").images.shape == (20, 9, 9, 3)


def test_train_and_test_arrays_as_keras_stores_them(tmp_path):
    dataset = npz_file.load(saved(tmp_path, x_train=X[:15], y_train=Y[:15], x_test=X[15:], y_test=Y[15:]), 18)
    assert dataset.official_splits == {"train": range(15), "test": range(15, 20)}
    assert dataset.images.shape == (20, 18, 18, 3) and dataset.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    "train, test, classes",
    [(np.eye(6)[Y], Y, 6), (Y, np.eye(5, dtype=bool)[Y], 5), (Y.astype(np.int64), Y.astype(np.uint64), 4)],
)
def test_labels_of_different_forms_in_one_file(tmp_path, train, test, classes):
    dataset = npz_file.load(saved(tmp_path, x_train=X, y_train=train, x_test=X, y_test=test), 0)
    np.testing.assert_array_equal(dataset.labels, [*Y, *Y])
    assert dataset.class_names == [str(number) for number in range(classes)]


def pair(train, test):
    return {"x_train": X, "y_train": train, "x_test": X, "y_test": test}


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": X}, "must hold x, y; it holds x"),
        ({"x_test": X}, "must hold x_test, y_test; it holds x_test"),
        ({"x": X, "y": Y[:-1]}, "x has 20 images and y has 19 labels"),
        ({"x": X[:, 0, 0], "y": Y}, r"x must be images .*; its shape is \(20, 3\)"),
        ({"x": X[..., :2], "y": Y}, "x must be images"),
        ({"x": X / 60 - 2, "y": Y}, "are float64 from -2 to 2.25, and must be from 0 to 255, 0 to 1 or -1 to 1: scale"),
        ({"x": X - 128.0, "y": Y}, "are float64 from -128 to 127"),
        ({"x": X.astype(np.uint16) * 257, "y": Y}, "are uint16 from 0 to 65535"),
        ({"x": X.astype(np.int32) - 1, "y": Y}, "are int32 from -1 to 254"),
        ({"x": np.where(X == 7, np.nan, X / 255), "y": Y}, "hold NaN or infinite values"),
        ({"x": np.where(X == 7, np.inf, X / 255), "y": Y}, "hold NaN or infinite values"),
        ({"x": X.astype(str), "y": Y}, "x must be numbers from 0 to 255, 0 to 1 or -1 to 1; it is <U3"),
        ({"x": X.astype(complex), "y": Y}, "x must be numbers .*; it is complex128"),
        ({"x": X.transpose(0, 3, 1, 2), "y": Y}, r"channels come last: use np.transpose\(x, \(0, 2, 3, 1\)\)"),
        ({"x": X, "y": Y / 3}, "y must be class numbers"),
        ({"x": X, "y": np.zeros((20, 4))}, "y must be class numbers"),
        ({"x": X, "y": 0 * Y}, "two classes or more; it has 1"),
        ({"x": X, "y": Y, "class_names": np.array(["a"])}, "4 classes and 1 class_names"),
        ({"x": X[:0], "y": Y[:0]}, "x must be images"),
        ({"x": np.array([None] * 20), "y": Y}, "without Python objects"),
        (
            {"x": X, "y": np.array(["a", "b"])[Y % 2], "class_names": np.array(["a", "c"])},
            "not in class_names: b",
        ),
        (pair(Y, Y.astype(str)), "numbers in all arrays, or texts in all of them; y_train is int64, y_test is <U21"),
        (pair(np.eye(4)[Y], Y.astype(str)), "numbers in all arrays, or texts in all of them"),
        (pair(np.eye(4)[Y], np.eye(5)[Y]), "one-hot labels have 4 and 5 columns"),
        (pair(np.eye(4)[Y], Y + 1), "one-hot labels have 4 columns, and its numbers are 0 to 4"),
        ({"x": X, "y": np.where(Y == 1, np.nan, Y)}, "y must be class numbers"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "must hold x_train, y_train, x_test, y_test"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, "images of different shapes"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        npz_file.load(saved(tmp_path, **arrays), 0)


@settings(max_examples=60)
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
    with pytest.raises(UserError, match="x.npy is no .npz file.*np.savez"):
        npz_file.load(tmp_path / "x.npy", 0)


def test_class_names_that_are_given_twice(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y, class_names=["cat", "dog", "cat"])
    with pytest.raises(UserError, match="class_names holds cat twice"):
        npz_file.load(tmp_path / "d.npz", 0)


def test_images_that_are_not_finite(tmp_path):
    x = X.astype("float32") / 255
    x[0, 0, 0] = np.nan
    np.savez(tmp_path / "d.npz", x=x, y=Y)
    with pytest.raises(UserError, match="d.npz: the images hold NaN or infinite values"):
        npz_file.load(tmp_path / "d.npz", 0)
