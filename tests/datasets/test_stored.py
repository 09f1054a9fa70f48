import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfadv import models, surrogate
from tfadv.attacks import fgsm
from tfadv.datasets.batches import evaluation_batches
from tfadv.errors import UserError

EPSILONS = (0.0, 0.01, 0.02, 0.03)


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits):
    """(folder, model, images, labels): the first 200 digits as train, 50 as test."""
    keras.utils.set_random_seed(0)
    model = models.build("resnet_tiny", (32, 32, 1), 10)
    folder = tmp_path_factory.mktemp("surrogate") / "digits_surrogate" / surrogate.VERSION
    folder.mkdir(parents=True)
    parts = {
        "train": (digits.images[:200], digits.labels[:200], np.arange(1000, 1200)),
        "test": (digits.images[200:250], digits.labels[200:250], np.arange(50)),
    }
    old, surrogate.MOST_SAMPLES = surrogate.MOST_SAMPLES, 64
    shards = surrogate.shards({"train": 200, "test": 50}, (32, 32, 1))
    surrogate.MOST_SAMPLES = old
    assert [(s.split, s.start, s.stop) for s in shards] == [
        ("train", 0, 50), ("train", 50, 100), ("train", 100, 150), ("train", 150, 200), ("test", 0, 50)
    ]  # fmt: skip
    for shard in shards:
        images, labels, ids = (column[shard.start : shard.stop] for column in parts[shard.split])
        batches = surrogate.perturbations(model, images, labels, batch_size=32)
        surrogate.write_shard(folder, "digits_surrogate", shard, images, labels, ids, batches)
    surrogate.write_metadata(folder, "digits_surrogate", shards, (32, 32, 1), digits.class_names, "for the tests")
    return folder, model, digits.images[:250], digits.labels[:250]


def test_round_trip_is_exact_to_the_bit(made):
    folder, model, images, labels = made
    samples, ids = surrogate.read(folder, "train", EPSILONS)
    assert ids.tolist() == list(range(1000, 1200))
    np.testing.assert_array_equal(samples.images, images[:200])
    np.testing.assert_array_equal(samples.labels, labels[:200])
    x = np.concatenate([x for x, _, _ in evaluation_batches(samples, batch_size=40).as_numpy_iterator()])
    clean = images[:200].astype("float32") / np.float32(255)
    # In the batches of the writer: another batch size may turn a sign where the gradient is all but zero.
    attacked = []
    for shard in range(0, 200, 50):
        for start in (0, 32):
            rows = shard + np.arange(start, start + 32) % 50
            attacked.append(fgsm(model, clean[rows], labels[rows], EPSILONS[1:]).numpy()[:, : 32 if start == 0 else 18])
    np.testing.assert_array_equal(x[:200], clean)
    np.testing.assert_array_equal(x[200:].reshape(3, 200, 32, 32, 1), np.concatenate(attacked, axis=1))


def test_tfds_reads_the_folder_with_known_cardinality(made):
    folder = made[0]
    builder = tfds.builder_from_directory(folder)
    assert builder.info.splits["train"].shard_lengths == [50, 50, 50, 50]
    assert builder.as_dataset(split="train").cardinality() == 200
    half = tfds.load("digits_surrogate", data_dir=folder.parents[1], split="test[:50%]", download=False)
    assert half.cardinality() == 25
    example = next(iter(half.as_numpy_iterator()))
    assert example["perturbation"].dtype == np.int8 and set(np.unique(example["perturbation"])) <= {-127, 0, 127}


def test_shards_of_large_images_stay_small():
    shards = surrogate.shards({"train": 10_000}, (224, 224, 3))
    assert max(map(len, shards)) * surrogate.sample_bytes((224, 224, 3)) <= surrogate.MOST_BYTES
    assert sum(map(len, shards)) == 10_000 and max(map(len, shards)) > 300


def test_small_on_disk(made):
    folder = made[0]
    size = sum(p.stat().st_size for p in folder.glob("*.tfrecord-*"))
    assert size / 250 < 3 * 32 * 32 * 4 / 12  # a twelfth of float32 copies at three eps


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_an_error_not_a_number(made, tmp_path, harm):
    import shutil

    copy = tmp_path / "digits_surrogate" / surrogate.VERSION
    shutil.copytree(made[0], copy)
    shard = sorted(copy.glob("*train*"))[1]
    content = shard.read_bytes()
    if harm == "flip":
        shard.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif harm == "truncate":
        shard.write_bytes(content[:-10])
    else:
        shard.unlink()
    with pytest.raises(UserError, match="surrogate"):
        surrogate.read(copy, "train", EPSILONS)


def test_a_failure_of_the_writing_thread_is_the_callers(tmp_path, digits, monkeypatch):
    """A full disk, for one: the attack must not go on as if its samples were written."""

    class Full:
        def __init__(self, path):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, record):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(surrogate.tf.io, "TFRecordWriter", Full)
    batches = []

    def attack():
        for start in range(0, 400, 10):
            batches.append(start)
            yield np.zeros((10, 32, 32, 1), np.int8)

    (shard,) = surrogate.shards({"train": 400}, (32, 32, 1))
    with pytest.raises(OSError, match="No space left"):
        surrogate.write_shard(
            tmp_path, "digits_surrogate", shard, digits.images[:400], digits.labels[:400], np.arange(400), attack()
        )
    assert len(batches) <= surrogate.MOST_WAITING + 2
