import numpy as np
import pytest
import sklearn.datasets

from tfadv.datasets import SOURCES, sources
from tfadv.errors import UserError


def test_digits_are_scikit_learns(data_dir):
    pool = sources.load("digits", data_dir, 8)
    digits = sklearn.datasets.load_digits()
    np.testing.assert_array_equal(pool.images[..., 0], np.round(digits.images * 255 / 16))
    np.testing.assert_array_equal(pool.labels, digits.target)
    assert pool.full_name == "digits/1.0.0"


def test_digits_upscaled_keep_dtype_and_range(digits):
    assert digits.images.shape == (1797, 32, 32, 1) and digits.images.dtype == np.uint8
    assert digits.images.max() > 250


def test_absent_without_network_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_online", lambda: False)
    with pytest.raises(UserError, match="mnist is not in .*no network.*--data_dir"):
        sources.load("mnist", str(tmp_path), 32)


def test_damaged_file_is_named(tmp_path):
    sources.load("digits", str(tmp_path), 8)
    (record,) = tmp_path.rglob("*.tfrecord-*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 1
    record.write_bytes(content)
    with pytest.raises(UserError, match="digits in .* is damaged"):
        sources.load("digits", str(tmp_path), 8)


# Images of all official splits, and of each class where that is known.
REAL = {"mnist": (70_000, 10), "cifar10": (60_000, 10), "cats_vs_dogs": (24_994, 2), "oxford_iiit_pet": (1_039, 2)}


@pytest.mark.parametrize("name", ["mnist", "oxford_iiit_pet"])
def test_real_data_is_pooled_whole(real_data, name):
    pool = sources.load(name, real_data, SOURCES[name].image_size)
    count, classes = REAL[name]
    size = SOURCES[name].image_size
    assert pool.images.shape == (count, size, size, SOURCES[name].channels)
    assert len(np.unique(pool.labels)) == len(pool.class_names) == classes
    if name == "mnist":  # padded, not resampled
        assert not pool.images[:, :2].any() and pool.images[:, 2:-2, 2:-2].any()
    else:  # the species, not the breed
        assert [n.lower() for n in pool.class_names] == ["cat", "dog"]
        assert np.bincount(pool.labels).tolist() == [550, 489]
