"""Data sets of TFDS that tfadv has no line for, built here without a download."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfadv import datasets
from tfadv.config import Config
from tfadv.datasets import sources
from tfadv.errors import UserError

IMAGE, LABEL = tfds.features.Image, tfds.features.ClassLabel
EMNIST = {"image": IMAGE(shape=(28, 28, 1)), "label": LABEL(num_classes=5)}


def write(root, features, n=12, supervised=None, size=(28, 28), splits=("train", "test")):
    """A prepared data set, as a builder that is not installed here would have left it."""
    channels = next(f.shape[-1] for f in features.values() if isinstance(f, IMAGE))
    dtype = next(f.np_dtype for f in features.values() if isinstance(f, IMAGE))
    rng = np.random.default_rng(0)

    def example(i):
        values = {}
        for key, feature in features.items():
            if isinstance(feature, IMAGE):
                values[key] = rng.integers(0, 200, (*size, channels)).astype(dtype)
            else:
                values[key] = i % feature.num_classes if isinstance(feature, LABEL) else i
        return values

    class SomeImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            return ((i, example(i)) for i in range(n))

    builder = SomeImages(data_dir=root)
    builder.download_and_prepare()
    return str(builder.data_path)


def test_by_name_and_by_folder(tmp_path):
    folder = write(tmp_path, EMNIST)
    for name in ("some_images", "some_images:1.0.0", folder):
        Config(dataset=name, data_dir=str(tmp_path))
        dataset = sources.load(name, str(tmp_path))
        assert dataset.images.shape == (24, 28, 28, 1) and dataset.class_names == ["0", "1", "2", "3", "4"]
        assert dataset.labels[:12].tolist() == [i % 5 for i in range(12)]
        assert dataset.official_splits == {"test": range(12), "train": range(12, 24)}
        assert dataset.full_name == "some_images/1.0.0"
    assert sources.load("some_images", str(tmp_path), 32).images.shape == (24, 32, 32, 1)


def test_colour_images_and_another_name_of_the_feature(tmp_path):
    write(
        tmp_path, {"picture": IMAGE(shape=(32, 32, 3)), "digit": LABEL(names=["a", "b"]), "id": np.int64}, size=(32, 32)
    )
    dataset = sources.load("some_images", str(tmp_path))
    assert dataset.images.shape == (24, 32, 32, 3) and dataset.class_names == ["a", "b"]


def test_one_of_several_classes_is_asked_for(tmp_path):
    features = EMNIST | {"writer": LABEL(num_classes=3)}
    write(tmp_path, features)
    with pytest.raises(UserError, match=r"--label.*image \(Image\), label \(ClassLabel\), writer \(ClassLabel\)"):
        sources.load("some_images", str(tmp_path))
    assert len(sources.load("some_images", str(tmp_path), label="writer").class_names) == 3
    with pytest.raises(UserError, match="--label"):
        sources.load("some_images", str(tmp_path), label="id")


def test_the_supervised_keys_decide(tmp_path):
    write(tmp_path, EMNIST | {"writer": LABEL(num_classes=3)}, supervised=("image", "label"))
    assert len(sources.load("some_images", str(tmp_path)).class_names) == 5


@pytest.mark.parametrize(
    "features, message",
    [
        ({"image": IMAGE(shape=(28, 28, 1)), "value": np.int64}, "with --label. Its features: image"),
        ({"label": LABEL(num_classes=2), "a": IMAGE(shape=(28, 28, 1)), "b": IMAGE(shape=(28, 28, 1))}, "has 2 images"),
        (EMNIST | {"image": IMAGE(shape=(28, 28, 1), dtype=np.uint16)}, "are uint16 with 1 channels"),
        (EMNIST | {"image": IMAGE(shape=(28, 28, 4))}, "are uint8 with 4 channels"),
        (EMNIST | {"image": IMAGE(shape=(None, None, 1))}, "give --image_size"),
    ],
)
def test_what_is_no_image_classification_is_said(tmp_path, features, message):
    write(tmp_path, features)
    with pytest.raises(UserError, match=message):
        sources.load("some_images", str(tmp_path))


def test_names_that_do_not_exist(tmp_path):
    for name, message in {
        "cifar": "unknown dataset 'cifar': did you mean 'cifar10'",
        "fashion_mnst": "did you mean 'fashion_mnist'",
        "folder:absent": "there is no folder absent",
        "npz:absent.npz": "there is no file absent.npz",
        "folder:": "there is no folder",
        "folder:~nobody/x": "there is no folder",
        "a b": "is not the name of a data set, a folder of TFDS, folder:PATH or npz:FILE",
    }.items():
        with pytest.raises(UserError, match=message):
            Config(dataset=name, data_dir=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not the folder of a prepared TFDS data set"):
        sources.load(str(tmp_path / "empty"), str(tmp_path))
    with pytest.raises(UserError, match="TFDS has no data set mnist/letters"):
        sources.load("mnist/letters", str(tmp_path))


@pytest.mark.parametrize(
    "name, short",
    [
        ("digits", "digits"),
        ("emnist/letters:3.1.0", "emnist_letters_3_1_0"),
        ("folder:my/photos of 2024", "photos_of_2024"),
        ("folder:2024", "images_2024"),
        ("npz:data/x.y.npz", "x_y"),
    ],
)
def test_short_names_are_names_for_tfds(name, short):
    assert datasets.short_name(name) == short


def test_letters_are_not_flipped():
    assert not datasets.find("emnist/letters").flip and not datasets.find("svhn_cropped:3.0.0").flip
    assert datasets.find("fashion_mnist").flip and datasets.find("folder:photos").flip


def test_images_without_a_class_are_left_out():
    images, labels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), np.array([0, -1, 1, -1, 0, 1])
    whole = sources.ImageDataset(images, labels, ["a", "b"], "x", {"test": range(2), "train": range(2, 6)})
    labeled = whole.labeled()
    assert np.ravel(labeled.images).tolist() == [0, 2, 4, 5] and labeled.labels.tolist() == [0, 1, 0, 1]
    assert labeled.official_splits == {"test": range(1), "train": range(1, 4)}


def test_paths_in_names_are_normalized(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.normalized("folder:~/a/./b/") == f"folder:{tmp_path}/a/b"
    assert datasets.normalized("emnist/letters") == "emnist/letters"
