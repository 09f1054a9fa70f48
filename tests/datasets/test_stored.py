import shutil
import threading
import time
import zlib

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from tfadv import models
from tfadv.attacks.fgsm import FGSM
from tfadv.datasets import stored
from tfadv.datasets.batches import evaluation_batches
from tfadv.errors import UserError
from tfadv.pipeline.stored import perturbations

EPSILONS = (0.0, 0.01, 0.02, 0.03)


@pytest.fixture(scope="module")
def written(tmp_path_factory, digits):
    """(folder, model, images, labels): the first 200 digits as train, 50 as test."""
    keras.utils.set_random_seed(0)
    model = models.build("resnet_tiny", (32, 32, 1), 10)
    folder = tmp_path_factory.mktemp("surrogate") / "digits_surrogate" / stored.VERSION
    folder.mkdir(parents=True)
    splits = {
        "train": (digits.images[:200], digits.labels[:200], np.arange(1000, 1200)),
        "test": (digits.images[200:250], digits.labels[200:250], np.arange(50)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "MAX_SAMPLES_PER_FILE", 64)
        files = stored.sample_files({"train": 200, "test": 50}, (32, 32, 1))
    assert [(file.split, file.start, file.stop) for file in files] == [
        ("train", 0, 50), ("train", 50, 100), ("train", 100, 150), ("train", 150, 200), ("test", 0, 50)
    ]  # fmt: skip
    for file in files:
        samples = tuple(column[file.start : file.stop] for column in splits[file.split])
        batches = perturbations(model, *samples[:2], batch_size=32)
        stored.write_file(folder, "digits_surrogate", file, samples, batches)
    stored.write_metadata(
        folder,
        "digits_surrogate",
        files,
        shape=(32, 32, 1),
        class_names=digits.class_names,
        description="for the tests",
    )
    return folder, model, digits.images[:250], digits.labels[:250]


def test_what_is_read_equals_what_the_attack_computes_exactly(written):
    folder, model, images, labels = written
    samples, ids = stored.read(folder, "train", EPSILONS)
    assert ids.tolist() == list(range(1000, 1200))
    np.testing.assert_array_equal(samples.images, images[:200])
    np.testing.assert_array_equal(samples.labels, labels[:200])
    x = np.concatenate([x for x, _, _ in evaluation_batches(samples, batch_size=40).as_numpy_iterator()])
    clean = images[:200].astype("float32") / np.float32(255)
    # In the batches of the writer: another batch size may turn a sign where the gradient is almost zero.
    attacked = []
    for first in range(0, 200, 50):
        for start in (0, 32):
            rows = first + np.arange(start, start + 32) % 50
            adversarial = FGSM()(model, clean[rows], labels[rows], EPSILONS[1:])
            attacked.append(adversarial.numpy()[:, : 32 if start == 0 else 18])
    np.testing.assert_array_equal(x[:200], clean)
    np.testing.assert_array_equal(x[200:].reshape(3, 200, 32, 32, 1), np.concatenate(attacked, axis=1))


def test_tfds_reads_the_folder(written):
    folder = written[0]
    builder = tfds.builder_from_directory(folder)
    assert builder.info.splits["train"].shard_lengths == [50, 50, 50, 50]
    assert builder.as_dataset(split="train").cardinality() == 200
    half = tfds.load("digits_surrogate", data_dir=folder.parents[1], split="test[:50%]", download=False)
    assert half.cardinality() == 25
    example = next(iter(half.as_numpy_iterator()))
    assert example["perturbation"].dtype == np.int8 and set(np.unique(example["perturbation"])) <= {-127, 0, 127}


def test_files_of_large_images_stay_small():
    files = stored.sample_files({"train": 10_000}, (224, 224, 3))
    assert max(map(len, files)) * stored.sample_bytes((224, 224, 3)) <= stored.MAX_BYTES_PER_FILE
    assert sum(map(len, files)) == 10_000 and max(map(len, files)) > 300


def test_size_on_disk(written):
    folder = written[0]
    size = sum(p.stat().st_size for p in folder.glob("*.tfrecord-*"))
    assert size / 250 < 3 * 32 * 32 * 4 / 12  # a twelfth of float32 copies at three eps


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_an_error(written, tmp_path, damage):
    copy = tmp_path / "digits_surrogate" / stored.VERSION
    shutil.copytree(written[0], copy)
    file = sorted(copy.glob("*train*"))[1]
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "truncate":
        file.write_bytes(content[:-10])
    else:
        file.unlink()
    with pytest.raises(UserError, match="surrogate"):
        stored.read(copy, "train", EPSILONS)


def test_an_error_of_the_writer_ends_the_attack(tmp_path, digits, monkeypatch):
    """Such as a full disk: the attack must not continue as if its samples were written."""

    class Full:
        def __init__(self, path):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, record):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.tf.io, "TFRecordWriter", Full)
    batches = []

    def attack():
        for start in range(0, 1000, 10):
            batches.append(start)
            yield np.zeros((10, 32, 32, 1), np.int8)

    (file,) = stored.sample_files({"train": 1000}, (32, 32, 1))
    samples = digits.images[:1000], digits.labels[:1000], np.arange(1000)
    with pytest.raises(OSError, match="No space left"):
        stored.write_file(tmp_path, "digits_surrogate", file, samples, attack())
    assert len(batches) <= stored.MAX_WAITING_TASKS + 2


def test_several_threads_encode_and_the_order_stays(tmp_path, digits, monkeypatch):
    (file,) = stored.sample_files({"train": 60}, (32, 32, 1))
    samples = digits.images[:60], digits.labels[:60], np.arange(60)
    perturbed = np.random.default_rng(0).choice(np.int8([-127, 127]), (60, 32, 32, 1))
    encoded, threads = stored._encoded, set()

    def slow_at_first(images, perturbations, labels, ids):
        threads.add(threading.get_ident())
        time.sleep(0.3 if ids[0] == 0 else 0.02)  # the first batch ends last
        return encoded(images, perturbations, labels, ids)

    files = []
    for encoders in (1, 4):
        monkeypatch.setattr(stored, "_encoders", lambda: encoders)  # noqa: B023
        monkeypatch.setattr(stored, "SAMPLES_PER_TASK", 5)
        monkeypatch.setattr(stored, "MAX_WAITING_TASKS", 3)
        monkeypatch.setattr(stored, "_encoded", encoded if encoders == 1 else slow_at_first)
        folder = tmp_path / str(encoders)
        folder.mkdir()
        stored.write_file(folder, "some", file, samples, (perturbed[i : i + 10] for i in range(0, 60, 10)))
        files.append([path.read_bytes() for path in folder.iterdir()])
    assert files[0] == files[1] and len(threads) > 1


def test_threads_that_encode_at_once_cause_no_warning(digits, monkeypatch, caplog):
    spec = tf.TensorSpec((None, None, None, None), tf.uint8)
    never_traced = tf.function(stored._encode_pngs.python_function, input_signature=[spec])
    monkeypatch.setattr(stored, "_encode_pngs", never_traced)
    monkeypatch.setattr(stored, "_encoders", lambda: 8)
    part = digits.images[:4], np.zeros((4, 32, 32, 1), np.int8), digits.labels[:4], np.arange(4)
    assert len(list(stored._encoded_in_threads([part] * 32))) == 128
    assert never_traced.experimental_get_tracing_count() == 1
    assert "retracing" not in caplog.text


def test_an_error_of_an_encoder_ends_the_attack(tmp_path, digits, monkeypatch):
    def fail(*samples):
        raise ValueError("can't be encoded")

    monkeypatch.setattr(stored, "_encoded", fail)
    (file,) = stored.sample_files({"train": 60}, (32, 32, 1))
    samples = digits.images[:60], digits.labels[:60], np.arange(60)
    with pytest.raises(ValueError, match="can't be encoded"):
        stored.write_file(tmp_path, "some", file, samples, [np.zeros((60, 32, 32, 1), np.int8)])


@pytest.mark.parametrize("number", [3, 5])
def test_as_many_perturbations_as_images(number, tmp_path):
    (file,) = stored.sample_files({"train": 4}, (8, 8, 1))
    samples = np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), np.arange(4)
    with pytest.raises(ValueError, match=f"{number} perturbations for 4 images"):
        stored.write_file(tmp_path, "some", file, samples, [np.zeros((number, 8, 8, 1), np.int8)])


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
    smooth=st.booleans(),
)
def test_an_independent_decoder_reads_what_was_encoded(height, width, channels, seed, smooth):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, height, width, channels)).astype(np.uint8)
    if smooth:
        images = np.cumsum(images // 32, axis=2).astype(np.uint8)
    perturbations = rng.choice(np.array([-127, 0, 127], np.int8), images.shape)
    records = list(stored.encode(images, perturbations, np.arange(3), np.arange(3) + 2**40))
    assert len(records) == 3
    for i, record in enumerate(records):
        feature = tf.train.Example.FromString(record).features.feature
        decoded = tf.io.decode_png(feature["image"].bytes_list.value[0], channels=channels)
        np.testing.assert_array_equal(decoded, images[i])
        back = np.frombuffer(zlib.decompress(feature["perturbation"].bytes_list.value[0]), np.int8)
        np.testing.assert_array_equal(back.reshape(images[i].shape), perturbations[i])
        assert feature["label"].int64_list.value[:] == [i] and feature["id"].int64_list.value[:] == [2**40 + i]


@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_images_and_signs_are_compressed(channels):
    ramp = np.linspace(0, 255, 32 * 32).reshape(1, 32, 32, 1).repeat(channels, 3).astype(np.uint8)
    signs = np.random.default_rng(0).choice(np.array([-127, 127], np.int8), ramp.shape)
    (record,) = stored.encode(ramp, signs, [0], [0])
    assert len(record) < 0.45 * ramp.size + 200
