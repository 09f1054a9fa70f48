import dataclasses

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow as tf

from tfadv.datasets import DATASETS, find, sources, splits
from tfadv.errors import UserError


def test_digits_are_those_of_scikit_learn(data_dir):
    dataset = sources.load("digits", data_dir, 8)
    digits = sklearn.datasets.load_digits()
    np.testing.assert_array_equal(dataset.images[..., 0], np.round(digits.images * 255 / 16))
    np.testing.assert_array_equal(dataset.labels, digits.target)
    assert dataset.full_name == "digits/1.0.0" and dataset.official_splits == {"train": range(1797)}


def test_digits_upscaled_keep_dtype_and_range(digits):
    assert digits.images.shape == (1797, 32, 32, 1) and digits.images.dtype == np.uint8
    assert digits.images.max() > 250


def test_reading_does_not_wait_for_the_autotuning_of_tf_data(data_dir, monkeypatch):
    read, autotuned = tf.data.Dataset.as_numpy_iterator, []

    def spy(dataset):
        autotuned.append(dataset.options().autotune.enabled)
        return read(dataset)

    monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator", spy)
    sources.load("digits", data_dir, 8)
    assert autotuned == [False]


def digits_as(source, data_dir, folder):
    """The name of a data set with the first 40 digits, 8x8 pixels: of TFDS, of a folder or of a file."""
    digits = sources.load("digits", data_dir, 8)
    x, y = digits.images[:40], digits.labels[:40]
    if source == "npz":
        np.savez(folder / "digits.npz", x=x, y=y)
        return f"npz:{folder}/digits.npz"
    if source == "folder":
        for number, (image, label) in enumerate(zip(x, y)):
            (folder / str(label)).mkdir(exist_ok=True)
            PIL.Image.fromarray(image[..., 0]).save(folder / str(label) / f"{number:02}.png")
        return f"folder:{folder}"
    return "digits"


@pytest.mark.parametrize("source", ["tfds", "npz", "folder"])
def test_images_are_padded_or_scaled(source, data_dir, tmp_path):
    name = digits_as(source, data_dir, tmp_path)
    own = sources.load(name, data_dir, 8).images
    padded, scaled = (sources.load(name, data_dir, 13, fit=fit).images for fit in ("pad", "resize"))
    np.testing.assert_array_equal(padded, np.pad(own, ((0, 0), (2, 3), (2, 3), (0, 0))))
    assert scaled.shape == padded.shape and scaled[:, 0].any() and not np.array_equal(scaled, padded)
    smaller = [sources.load(name, data_dir, 5, fit=fit).images for fit in ("pad", "resize")]
    np.testing.assert_array_equal(*smaller)  # padding would cut off the border of the image
    default = sources.load(name, data_dir, 5).images
    as_keras = np.round(tf.image.resize(own, (5, 5)).numpy())
    np.testing.assert_array_equal(default, smaller[0] if source == "tfds" else as_keras)
    assert (np.asarray(default) != np.asarray(smaller[0])).any() == (source != "tfds")
    for fit in ("keras", "crop"):  # to a square
        np.testing.assert_array_equal(sources.load(name, data_dir, 5, fit=fit).images, as_keras)
    wide = sources.load(name, data_dir, "4x8", fit="crop").images
    np.testing.assert_array_equal(wide, own[:, 2:6])
    padded = sources.load(name, data_dir, "10x12", fit="pad").images
    np.testing.assert_array_equal(padded, np.pad(own, ((0, 0), (1, 1), (2, 2), (0, 0))))


@pytest.mark.parametrize("name", ["digits", "some_set"])
def test_data_sets_of_tfds_are_scaled_with_antialiasing(name, data_dir):
    """Results on these data sets depend on every pixel."""
    own = sources.load("digits", data_dir, 8).images
    expected = np.round(np.clip(tf.image.resize(own, (5, 5), antialias=True), 0, 255))
    np.testing.assert_array_equal(sources.fitted(own, 5, find(name).fit), expected)
    np.testing.assert_array_equal(sources.load("digits", data_dir, 5).images, expected)


@pytest.mark.parametrize("size, fit", [(None, "crop"), (None, "keras"), (16, "crop")])
def test_ways_of_scaling_agree_for_known_and_unknown_sizes(size, fit):
    image = np.random.default_rng(0).integers(0, 256, (16, 23, 3), dtype=np.uint8)
    scale = tf.function(lambda x: sources.fitted(x, "9x7", fit), [tf.TensorSpec((size, None, 3), tf.uint8)])
    np.testing.assert_array_equal(scale(image), sources.fitted(image, "9x7", fit))
    np.testing.assert_array_equal(sources.fitted(image[None], "9x7", fit)[0], sources.fitted(image, "9x7", fit))


def test_channels_are_converted_as_by_pillow():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey = sources.with_channels(image[None], 1)
    np.testing.assert_array_equal(grey[0, ..., 0], np.asarray(PIL.Image.fromarray(image).convert("L")))
    np.testing.assert_allclose(grey[0], tf.image.rgb_to_grayscale(image), atol=1)
    colour = sources.with_channels(grey, 3)
    assert colour.shape == (1, 64, 64, 3) and (colour == grey).all()
    np.testing.assert_array_equal(sources.with_channels(colour, 1), grey)
    assert sources.with_channels(colour, 3) is colour


def test_images_of_unknown_size_are_padded_each_by_its_own_size():
    pad = tf.function(lambda image: sources.fitted(image, 5, "pad"), [tf.TensorSpec((None, None, 1), tf.uint8)])
    small, large = (pad(np.ones((*size, 1), np.uint8)).numpy()[..., 0] for size in ((2, 4), (6, 3)))
    np.testing.assert_array_equal(small, np.pad(np.ones((2, 4)), ((1, 2), (0, 1))))
    np.testing.assert_array_equal(large, np.ones((5, 5)))


def test_digest_follows_every_pixel_and_label(digits):
    before = digits.digest()
    for field in ("images", "labels"):
        values = getattr(digits, field).copy()
        values.flat[-1] += 1
        assert dataclasses.replace(digits, **{field: values}).digest() != before
    assert dataclasses.replace(digits).digest() == before


def test_missing_data_set_without_network(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("name", [pytest.param("mnist", marks=pytest.mark.long), "oxford_iiit_pet"])
def test_real_data_holds_the_images_of_all_official_splits(real_data, name):
    dataset = sources.load(name, real_data, DATASETS[name].image_size)
    count, classes = REAL[name]
    size = DATASETS[name].image_size
    assert dataset.images.shape == (count, size, size, 1 if name == "mnist" else 3)
    assert len(np.unique(dataset.labels)) == len(dataset.class_names) == classes
    assert sum(map(len, dataset.official_splits.values())) == count
    if name == "mnist":  # padded, not resampled; the test split has the classes of the published test images
        rows = splits.official_splits(dataset.labels, dataset.official_splits, 0)
        assert [len(rows[split]) for split in splits.SPLITS] == [54_000, 6_000, 10_000]
        assert np.bincount(dataset.labels[rows["test"]]).tolist() == [
            980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
        ]  # fmt: skip
        assert not dataset.images[:, :2].any() and dataset.images[:, 2:-2, 2:-2].any()
    else:  # the species, not the breed
        assert [n.lower() for n in dataset.class_names] == ["cat", "dog"]
        assert np.bincount(dataset.labels).tolist() == [550, 489]


def test_a_data_set_that_another_process_prepares_meanwhile_is_read(tmp_path, monkeypatch):
    from tfadv.datasets.digits import Digits

    prepare = Digits.download_and_prepare

    def too_late(self, *args, **kwargs):
        prepare(Digits(data_dir=str(tmp_path)))  # the other process
        raise FileExistsError("the folder exists already")

    monkeypatch.setattr(Digits, "download_and_prepare", too_late)
    assert len(sources.load("digits", str(tmp_path), 32).labels) == 1797
