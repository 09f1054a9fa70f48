"""Arrays on the disk: the same values as in memory, read row by row, and no file that stays."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.test_sources import digits_as
from tfadv.datasets import sources, storage, stored
from tfadv.datasets.batches import Samples, evaluation_batches, training_batches
from tfadv.datasets.storage import Rows, Signs, Storage, parts, take
from tfadv.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 1), np.uint8)
PERTURBATIONS = np.random.default_rng(1).integers(-127, 128, (30, 6, 6, 1)).astype(np.int8)
LABELS = np.arange(30) % 5


def in_a_file(shape, dtype):
    """An array in a file, however much memory is free."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "MEMORY_SHARE", 0)
        return Storage().allocate(shape, dtype)


def on_disk(array):
    """The array in a file."""
    copy = in_a_file(array.shape, array.dtype)
    copy[:] = array
    return copy


@given(st.lists(st.integers(0, 29), min_size=1, max_size=40), st.data())
def test_rows_of_rows_are_those_of_an_array(first, data):
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=40))
    first, second = np.array(first), np.array(second, np.int64)
    lazy = take(take(on_disk(IMAGES), first), second)
    assert isinstance(lazy, Rows) and lazy.dtype == np.uint8 and lazy.ndim == 4
    assert lazy.shape == (len(second), 6, 6, 1) == np.asarray(lazy).shape
    np.testing.assert_array_equal(lazy[:], IMAGES[first][second])
    np.testing.assert_array_equal(take(lazy, slice(1, 3))[:], IMAGES[first][second][1:3])
    assert not isinstance(lazy[:], np.memmap)  # in memory
    np.testing.assert_array_equal(np.concatenate([*parts(lazy, 7), lazy[:0]]), lazy[:])


def test_rows_and_their_rows_share_the_memory_of_the_array():
    first = take(IMAGES, np.arange(30)[::-1])
    for rows in (first, take(first, slice(3, 9)), take(first, np.array([4, 4]))):
        assert rows.array is IMAGES
    dataset = sources.ImageDataset(IMAGES, LABELS, ["a"], "toy", {"test": range(9), "train": range(9, 30)})
    assert dataset.shuffled().images.array is IMAGES and dataset.labeled().images.array is IMAGES
    np.testing.assert_array_equal(first[:, 2, 3, 0], IMAGES[::-1, 2, 3, 0])  # along other axes as well


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_signs_take_two_bits_and_read_like_an_array(width, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array([-127, 0, 127], np.int8), (12, 5, width, 1))
    signs = Signs.allocate(values.shape, np.empty)
    signs[0:5], signs[5:12] = values[:5], values[5:]
    assert Signs.can_hold(values) and signs.codes.nbytes == 12 * -(-5 * width // 4)
    assert signs.shape == values.shape and len(signs) == 12 and signs.dtype == np.int8 == signs[:].dtype
    rows = rng.integers(0, 12, 7)
    for positions in (slice(None), slice(2, 6), rows, 3, (slice(1, 3), 2)):
        np.testing.assert_array_equal(signs[positions], values[positions])
    np.testing.assert_array_equal(take(take(signs, rows), slice(1, 4))[:], values[rows][1:4])


@pytest.mark.parametrize("value", [-128, -126, 1, 126])
def test_signs_hold_no_other_values(value):
    assert not Signs.can_hold(np.array([[0, 127, -127, value]], np.int8))


@pytest.mark.parametrize("balanced", [False, True])
def test_batches_are_the_same_bit_for_bit(balanced):
    of = [
        Samples(images, LABELS, perturbations, (0.0, 0.1, 0.3))
        for images, perturbations in ((IMAGES, PERTURBATIONS), (on_disk(IMAGES), on_disk(PERTURBATIONS)))
    ]
    if balanced:
        of = [samples.select(np.array([2, 3, 5, 7, 11, 13, 17, 19])) for samples in of]
        assert isinstance(of[1].images, Rows) and isinstance(of[1].perturbations, Rows)
    settings = {"batch_size": 6, "epochs": 3, "seed": 4, "augmentations": ("shift", "noise")}
    memory, disk = ([*training_batches(samples, **settings)[0]] for samples in of)
    assert len(memory) == len(disk) > 3
    for (x, y), (x_, y_) in zip(memory, disk):
        assert x.shape == x_.shape == (6, 6, 6, 1)
        np.testing.assert_array_equal(x, x_)
        np.testing.assert_array_equal(y, y_)
    for batch, batch_ in zip(*(evaluation_batches(samples, batch_size=7) for samples in of), strict=True):
        for a, b in zip(batch, batch_):
            np.testing.assert_array_equal(a, b)


def test_the_disk_is_used_where_memory_is_short(monkeypatch, tmp_path):
    for free, kind in ((4000, np.ndarray), (3999, np.memmap)):
        monkeypatch.setattr(storage, "free_memory", lambda free=free: free)
        assert type(Storage(tmp_path).allocate((10, 10, 10, 1), np.uint8)) is kind
    assert not list(tmp_path.iterdir())  # the file has no name


def test_a_limit_of_the_process_counts():
    code = (
        "import psutil; from tfadv.datasets.storage import free_memory; before = free_memory();"
        "used = psutil.Process().memory_info().data;"
        "psutil.Process().rlimit(psutil.RLIMIT_DATA, (used + 2**28, -1)); print(before, free_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2]
    )
    before, after = map(int, done.stdout.split())
    assert before > 2**28 >= after > 2**27, done.stderr


def test_too_little_disk_space_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "MEMORY_SHARE", 0)
    monkeypatch.setattr(storage.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"0.0 GB of images .*\(No space left on device\).*another --workdir"):
        Storage(tmp_path).allocate((10, 10), np.uint8)
    monkeypatch.undo()
    monkeypatch.setattr(storage, "MEMORY_SHARE", 0)
    with pytest.raises(UserError, match="absent.*No such file"):
        Storage(tmp_path / "absent").allocate((10, 10), np.uint8)


def test_the_space_of_a_file_is_reserved(tmp_path, monkeypatch):
    reserve, reserved = os.posix_fallocate, []

    def watched(descriptor, *span):
        reserve(descriptor, *span)
        reserved.append(512 * os.fstat(descriptor).st_blocks)

    monkeypatch.setattr(storage, "MEMORY_SHARE", 0)
    monkeypatch.setattr(storage.os, "posix_fallocate", watched)
    Storage(tmp_path).allocate((50, 2**16), np.uint8)
    assert reserved and reserved[0] >= 50 * 2**16


@pytest.mark.parametrize("source", ["tfds", "npz", "folder"])
def test_data_sets_are_the_same_on_the_disk(source, data_dir, tmp_path):
    name = digits_as(source, data_dir, tmp_path)
    memory = sources.load(name, data_dir, 12)
    disk = sources.load(name, data_dir, 12, allocate=in_a_file)
    assert isinstance(disk.images, (np.memmap, Rows)) and disk.digest() == memory.digest()
    assert disk.labeled().digest() == memory.labeled().digest()


def write_samples(folder, perturbations):
    files = stored.sample_files({"train": 30}, (6, 6, 1))
    for file in files:
        stored.write_file(folder, "toy_surrogate", file, (IMAGES, LABELS, np.arange(30)), [perturbations])
    names = [str(number) for number in range(5)]
    stored.write_metadata(folder, "toy_surrogate", files, shape=(6, 6, 1), class_names=names, description="")


def test_images_in_memory_are_not_read_again(tmp_path):
    write_samples(tmp_path, PERTURBATIONS)
    images = take(IMAGES, np.arange(30))
    samples, ids = stored.read(tmp_path, "train", (0.0, 0.1), images=images)
    assert samples.images is images and ids.tolist() == list(range(30))
    np.testing.assert_array_equal(samples.perturbations, PERTURBATIONS)


@pytest.mark.parametrize("others", [0, 12, 30])
def test_perturbations_of_fgsm_are_kept_as_signs(others, tmp_path, monkeypatch):
    """Whenever another value comes: in no batch, a later one or the first one."""
    monkeypatch.setattr(stored, "SAMPLES_READ", 8)
    perturbations = np.where(PERTURBATIONS < 0, np.int8(-127), np.int8(127))
    if others:
        perturbations[30 - others :] = PERTURBATIONS[30 - others : 30]
    write_samples(tmp_path, perturbations)
    samples, _ = stored.read(tmp_path, "train", (0.0, 0.1))
    assert isinstance(samples.perturbations, np.ndarray if others else Signs)
    np.testing.assert_array_equal(samples.perturbations, perturbations)


def test_stored_samples_are_the_same_on_the_disk(tmp_path):
    write_samples(tmp_path, PERTURBATIONS)
    samples, ids = stored.read(tmp_path, "train", (0.0, 0.1), in_a_file)
    assert isinstance(samples.images, np.memmap) and isinstance(samples.perturbations, np.memmap)
    np.testing.assert_array_equal(samples.images, IMAGES)
    np.testing.assert_array_equal(samples.perturbations, PERTURBATIONS)
    np.testing.assert_array_equal(samples.labels, LABELS)
    assert ids.tolist() == list(range(30))
