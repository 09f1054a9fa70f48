"""Folders of images: every kind of image file, and every kind of mistake."""

import shutil
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

from tfadv.datasets import image_folder, sources
from tfadv.errors import UserError
from tfadv.specs import sides


def picture(size=(12, 12), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def folder_of(root, per_class=2, classes=("cat", "dog"), split="", size=(12, 12)):
    for number, name in enumerate(classes):
        (root / split / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(picture(size, 100 * number + i)).save(root / split / name / f"{i}.png")
    return root


def test_images_come_in_the_order_of_classes_and_names(tmp_path):
    dataset = image_folder.load(folder_of(tmp_path / "pets"), 0)
    assert dataset.class_names == ["cat", "dog"] and dataset.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.images, [picture(seed=s) for s in (0, 1, 100, 101)])
    assert dataset.official_splits == {"train": range(4)} and dataset.full_name == "folder pets"


def test_splits_in_folders_of_their_own(tmp_path):
    for split, n in (("train", 3), ("val", 1), ("test", 2)):
        folder_of(tmp_path, n, split=split)
    dataset = image_folder.load(tmp_path, 0)
    assert dataset.official_splits == {"test": range(4), "train": range(4, 10), "validation": range(10, 12)}
    np.testing.assert_array_equal(dataset.images[5], picture(seed=1))


def save(path, kind):
    """A file of each kind; all show the same grey ramp, so that what is read can be compared."""
    ramp = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (12, 1))
    image = Image.fromarray(ramp)
    if kind == "16 bits":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif kind == "float":
        image = Image.fromarray(ramp.astype(np.float32) / 255)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # is to be turned by 90 degrees clockwise
        Image.fromarray(np.rot90(ramp).copy()).save(path / "x.png", exif=exif)
        return
    elif kind == "transparent":
        image = image.convert("RGBA")
        image.putpixel((0, 0), (0, 0, 0, 0))
    elif kind != "L":
        image = image.convert("RGB").convert(kind, palette=Image.Palette.ADAPTIVE)
    image.save(path / ("x.tif" if kind in ("16 bits", "float", "CMYK") else "x.png"))


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "16 bits", "float", "turned", "transparent"])
def test_every_kind_of_image_shows_the_same(tmp_path, kind):
    folder_of(tmp_path, 1)
    (tmp_path / "cat/0.png").unlink()
    save(tmp_path / "cat", kind)
    image = image_folder.load(tmp_path, 0).images[0]
    expected = np.tile(np.arange(0, 240, 20), (12, 1))
    if kind == "transparent":
        assert image[0, 0].tolist() == [255, 255, 255]
        expected[0, 0] = 255
    assert image.shape == (12, 12, 3)
    np.testing.assert_allclose(image[..., 1], expected, atol=2 if kind == "CMYK" else 0)


def test_grey_images_stay_grey_only_together(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        save(tmp_path / name, "L")
    assert image_folder.load(tmp_path, 0).images.shape == (2, 12, 12, 1)
    save(tmp_path / "cat", "RGB")
    assert image_folder.load(tmp_path, 0).images.shape == (2, 12, 12, 3)


def test_images_are_scaled_where_a_size_is_given(tmp_path):
    folder_of(tmp_path, 1, size=(30, 20))
    assert image_folder.load(tmp_path, 0).images.shape == (2, 30, 20, 3)
    folder_of(tmp_path, 1, classes=("eel",), size=(9, 9))
    with pytest.raises(UserError, match="must be of one size, and have 9x9 to 30x20: give --image_size"):
        image_folder.load(tmp_path, 0)
    assert image_folder.load(tmp_path, 10).images.shape == (3, 10, 10, 3)
    assert image_folder.load(tmp_path, "10x15").images.shape == (3, 10, 15, 3)


@pytest.mark.parametrize("size", [10, "10x15", "40x12", "33x64"])
@pytest.mark.parametrize("crop", [False, True])
def test_images_are_scaled_as_by_the_loader_of_keras(tmp_path, size, crop):
    for name, own_size in (("eel", (30, 20)), ("fox", (17, 41)), ("gnu", (64, 64))):
        folder_of(tmp_path, 2, classes=(name,), size=own_size)
        Image.fromarray(picture(own_size)).save(tmp_path / name / "2.jpg", quality=90)
        Image.fromarray(picture(own_size)[..., 0]).save(tmp_path / name / "3.JPG", quality=90)
    loaded = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=sides(size), batch_size=None, shuffle=False, crop_to_aspect_ratio=crop, verbose=False
    )
    expected = np.stack([x for x, _ in loaded.as_numpy_iterator()])
    images = image_folder.load(tmp_path, size, *(["crop"] if crop else [])).images
    np.testing.assert_array_equal(images, np.clip(np.round(expected), 0, 255))
    antialiased = image_folder.load(tmp_path, size, "resize").images
    assert (antialiased != images).any()


def test_scaling_of_pillow_and_borders_stay_what_they_were(tmp_path):
    folder_of(tmp_path, 1, size=(30, 20))
    image = Image.fromarray(picture((30, 20)))
    scaled = image_folder.load(tmp_path, "10x12", "resize").images[0]
    np.testing.assert_array_equal(scaled, np.asarray(image.resize((12, 10), Image.Resampling.BILINEAR)))
    padded = image_folder.load(tmp_path, "33x24", "pad").images[0]
    np.testing.assert_array_equal(padded, np.pad(picture((30, 20)), ((1, 2), (2, 2), (0, 0))))
    too_high = image_folder.load(tmp_path, "20x64", "pad").images[0]  # borders would cut off rows
    np.testing.assert_array_equal(too_high, np.asarray(image.resize((64, 20), Image.Resampling.BILINEAR)))


def test_other_files_are_left_out_and_said(tmp_path, caplog):
    folder_of(tmp_path)
    (tmp_path / "cat/notes.txt").write_text("a note")
    (tmp_path / "cat/.DS_Store").write_bytes(b"\0")
    with caplog.at_level("WARNING", logger="tfadv"):
        assert len(image_folder.load(tmp_path, 0).labels) == 4
    assert "1 files are not images, such as notes.txt" in caplog.text


def break_file(path, how):
    content = path.read_bytes()
    if how == "empty":
        content = b""
    elif how == "text":
        content = b"not an image"
    elif how == "cut":
        content = content[: len(content) // 2]
    elif how == "bit":
        content = content[:60] + bytes([content[60] ^ 0xFF]) + content[61:]
    elif how == "huge":  # claims 100,000 x 100,000 pixels
        header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + content[24:29]
        content = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "text", "cut", "bit", "huge"])
def test_a_broken_file_is_named(tmp_path, how):
    folder_of(tmp_path)
    break_file(tmp_path / "dog/1.png", how)
    with pytest.raises(UserError, match=r"can't read the image .*dog/1\.png \(.+\): replace or remove it"):
        image_folder.load(tmp_path, 0)
    break_file(tmp_path / "dog/0.png", "text")
    with pytest.raises(UserError, match="dog/0.png .* and 1 more|dog/0.png"):
        image_folder.load(tmp_path, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: shutil.rmtree(root / "dog"), "must have a sub-folder for each class, two or more; it has 1"),
        (lambda root: [p.unlink() for p in (root / "dog").iterdir()], "there are no images in .*dog"),
        (lambda root: [shutil.rmtree(root / n) for n in ("cat", "dog")], "it has 0"),
    ],
)
def test_folders_without_classes(tmp_path, change, message):
    change(folder_of(tmp_path))
    with pytest.raises(UserError, match=message):
        image_folder.load(tmp_path, 0)


def test_splits_must_have_the_same_classes(tmp_path):
    folder_of(tmp_path, split="train")
    folder_of(tmp_path, split="test", classes=("cat", "fox"))
    with pytest.raises(UserError, match="must have the same classes; only one of them has dog, fox"):
        image_folder.load(tmp_path, 0)


def test_images_in_deeper_folders_belong_to_the_class(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "cat/more").mkdir()
    (tmp_path / "cat/0.png").rename(tmp_path / "cat/more/0.png")
    assert image_folder.load(tmp_path, 0).labels.tolist() == [0, 0, 1, 1]


def test_two_folders_for_validation_are_refused(tmp_path):
    for split in ("train", "val", "validation"):
        folder_of(tmp_path, split=split)
    with pytest.raises(UserError, match="both val and validation"):
        image_folder.load(tmp_path, 0)
    shutil.rmtree(tmp_path / "validation")
    folder_of(tmp_path, split="Training")
    with pytest.raises(UserError, match="both Training and train"):
        image_folder.load(tmp_path, 0)


@pytest.mark.parametrize(
    "names, splits",
    [
        (("train", "valid", "test"), {"train", "validation", "test"}),
        (("training", "testing"), {"train", "test"}),
        (("Train", "Validation", "TEST"), {"train", "validation", "test"}),
        (("train", "val"), {"train", "validation"}),
    ],
)
def test_names_of_splits(tmp_path, names, splits):
    for split in names:
        folder_of(tmp_path, split=split)
    dataset = image_folder.load(tmp_path, 0)
    assert set(dataset.official_splits) == splits and dataset.class_names == ["cat", "dog"]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.xml").write_text("<a/>")
    assert set(image_folder.load(tmp_path, 0).official_splits) == splits  # a folder without images is none
    folder_of(tmp_path, split="unlabeled", classes=("more",))
    with pytest.raises(UserError, match="and also images in unlabeled: move these into a class of [tT]rain.*, or away"):
        image_folder.load(tmp_path, 0)


def test_splits_without_training_images(tmp_path):
    for split in ("val", "test"):
        folder_of(tmp_path, split=split)
    with pytest.raises(UserError, match="has test, val, but no folder train"):
        image_folder.load(tmp_path, 0)


def test_classes_may_have_the_names_of_splits(tmp_path):
    folder_of(tmp_path, classes=("car", "train", "test"))
    assert image_folder.load(tmp_path, 0).class_names == ["car", "test", "train"]


def test_what_systems_leave_in_folders_is_no_class_and_no_image(tmp_path, caplog):
    folder_of(tmp_path)
    left = (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._0.png")
    for name in (*left, "cat/.ipynb_checkpoints/0-checkpoint.png", "dog/@eaDir/0.png/thumb.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "cat/0.png", tmp_path / name)
    with caplog.at_level("INFO", logger="tfadv"):
        dataset = image_folder.load(tmp_path, 0)
    assert dataset.class_names == ["cat", "dog"] and len(dataset.labels) == 4 and not caplog.records


@pytest.mark.parametrize(
    "classes, splits", [("images", 1), ("pets-1.0/pets", 1), ("pets/{}", 2), ("{}/images", 2), ("{}/{}", 2)]
)
def test_folders_with_one_folder_inside_are_gone_through(tmp_path, caplog, classes, splits):
    names = ("train", "test")[:splits]
    for split in names:
        folder_of(tmp_path, split=classes.format(split, split))
    (tmp_path / "labels").mkdir()
    with caplog.at_level("INFO", logger="tfadv"):
        dataset = image_folder.load(tmp_path, 0)
    assert dataset.class_names == ["cat", "dog"] and set(dataset.official_splits) == set(names)
    assert "the classes are in" in caplog.text


def test_one_class_is_not_gone_through(tmp_path):
    folder_of(tmp_path, classes=("cat",), split="pets")
    with pytest.raises(UserError, match=r"pets must have .* two or more; it has 1 \(cat\)|it has 1 \(pets\)"):
        image_folder.load(tmp_path, 0)


def test_jpeg_files_are_turned_and_broken_ones_named(tmp_path):
    folder_of(tmp_path, 1, size=(30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture((20, 30))).save(tmp_path / "cat/1.jpg", exif=exif, quality=95)
    image = Image.fromarray(picture((20, 30)))
    image.save(tmp_path / "dog/1.jpg", quality=95)
    turned = np.rot90(image_folder.load(tmp_path, "30x20").images[1])
    (tmp_path / "cat/1.jpg").unlink()
    (tmp_path / "dog/1.jpg").rename(tmp_path / "cat/1.jpg")
    np.testing.assert_array_equal(turned, image_folder.load(tmp_path, "20x30").images[1])
    content = (tmp_path / "cat/1.jpg").read_bytes()
    (tmp_path / "cat/1.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"can't read the image .*cat/1\.jpg \(.+\): replace or remove it"):
        image_folder.load(tmp_path, "20x30")


def test_names_of_files_in_capital_letters(tmp_path):
    folder_of(tmp_path, 1)
    Image.fromarray(picture()).save(tmp_path / "cat/1.JPG")
    Image.fromarray(picture()).save(tmp_path / "dog/1.JPEG")
    assert len(image_folder.load(tmp_path, 0).labels) == 4


def test_the_order_mixes_classes_but_not_splits(tmp_path):
    for split, n in (("train", 20), ("test", 10)):
        folder_of(tmp_path, n, split=split)
    ordered, mixed = image_folder.load(tmp_path, 0), sources.load(f"folder:{tmp_path}", "")
    assert mixed.official_splits == {"test": range(20), "train": range(20, 60)}
    for rows in mixed.official_splits.values():
        assert 0 < mixed.labels[rows][: len(rows) // 2].sum() < len(rows) // 2
        before = {(image.tobytes(), label) for image, label in zip(ordered.images[rows], ordered.labels[rows])}
        assert before == {(image.tobytes(), label) for image, label in zip(mixed.images[rows], mixed.labels[rows])}
    np.testing.assert_array_equal(sources.load(f"folder:{tmp_path}/", "").images, mixed.images)
