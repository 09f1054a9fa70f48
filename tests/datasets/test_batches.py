import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tfadv.datasets import AUGMENTATIONS, batches
from tfadv.datasets.batches import Samples
from tfadv.datasets.storage import Rows


def samples(n=10, epsilons=(0.0,), perturbed=False):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)  # the number of the image
    p = rng.choice(np.array([-127, 0, 127], np.int8), images.shape) if perturbed else None
    if perturbed:
        p[:, 0, 0, 0] = 0
    return batches.Samples(images, np.arange(n, dtype=np.int64), p, tuple(epsilons))


def collect(dataset):
    x, y, *counts = map(np.concatenate, zip(*dataset.as_numpy_iterator()))
    kept = counts[0] == 1 if counts else slice(None)
    return x[kept], y[kept]


def test_an_epoch_contains_every_image_at_every_level_once():
    data = samples(10, (0.0, 0.1, 0.2), perturbed=True)
    dataset, steps = batches.training_batches(data, batch_size=6, epochs=2, seed=0)
    assert steps == 5 and dataset.cardinality() == 10
    x, y = collect(dataset)
    assert x.shape == (60, 4, 4, 3) and x.dtype == np.float32
    for epoch in (slice(0, 30), slice(30, 60)):
        seen = {(int(label), image.tobytes()) for image, label in zip(x[epoch], y[epoch])}
        assert len(seen) == 30 and np.bincount(y[epoch]).tolist() == [3] * 10
    assert (y[:30] != y[30:]).any()  # another order


def test_a_sample_is_its_image_plus_eps_times_its_perturbation():
    data = samples(5, (0.0, 0.03), perturbed=True)
    x, y = collect(batches.evaluation_batches(data, batch_size=4))
    clean = data.images.astype("float32") / np.float32(255)
    np.testing.assert_array_equal(x[:5], clean)
    signs = data.perturbations.astype("float32") / 127
    np.testing.assert_array_equal(x[5:], np.clip(clean + np.float32(0.03) * signs, 0, 1))
    assert y.tolist() == [0, 1, 2, 3, 4] * 2


def test_labels_stay_with_their_images_under_augmentation():
    data = samples(64)
    dataset, _ = batches.training_batches(data, batch_size=16, epochs=1, seed=3, augmentations=("noise",))
    x, y = collect(dataset)
    own = np.abs(x - data.images[y].astype("float32") / 255)
    assert own.max() < 0.15 and sorted(y) == list(range(64))


def test_the_parts_of_all_hosts_are_the_batches(hosts=3):
    """Bit for bit, with every augmentation; each host reads its own images only."""
    data = samples(20, (0.0, 0.1), perturbed=True)
    keywords = dict(batch_size=9, epochs=2, seed=1, augmentations=AUGMENTATIONS)
    whole, steps = batches.training_batches(data, **keywords)
    parts = [batches.training_batches(data, share=(i, hosts), **keywords) for i in range(hosts)]
    assert {part[1] for part in parts} == {steps}
    for batch, *own in zip(whole, *(part[0] for part in parts), strict=True):
        assert all(x.shape == (9 // hosts, *batch[0].shape[1:]) for x, _ in own)
        for together, values in zip(zip(*own), batch):
            np.testing.assert_array_equal(np.concatenate(together), values)
    whole = batches.evaluation_batches(data, batch_size=12)
    parts = [batches.evaluation_batches(data, batch_size=12, share=(i, hosts)) for i in range(hosts)]
    for batch, *own in zip(whole, *parts, strict=True):
        for together, values in zip(zip(*own), batch):
            np.testing.assert_array_equal(np.concatenate(together), values)


@pytest.mark.parametrize("index", [0, 1])
def test_a_host_reads_only_the_images_of_its_part(index, monkeypatch):
    read = []

    class Counted(Rows):
        def __getitem__(self, positions):
            read.append(len(positions))
            return super().__getitem__(positions)

    plain = samples(20)
    data = Samples(Counted(plain.images, np.arange(20)), plain.labels)
    dataset, steps = batches.training_batches(data, batch_size=8, epochs=3, seed=1, share=(index, 2))
    assert len(list(dataset)) == 3 * steps and read == [4] * (3 * steps)
    with pytest.raises(ValueError, match="8 images has no 3 equal parts"):
        list(batches.training_batches(data, batch_size=8, epochs=1, seed=1, share=(0, 3))[0])


def test_batches_from_a_later_step_equal_those_of_an_uninterrupted_run():
    data = samples(20, (0.0, 0.1), perturbed=True)
    keywords = dict(batch_size=8, epochs=3, seed=1, augmentations=AUGMENTATIONS)
    dataset, steps = batches.training_batches(data, **keywords)
    whole = list(dataset)
    for epoch, step in ((2, 0), (1, 3), (0, 4)):
        rest, _ = batches.training_batches(data, first=(epoch, step), **keywords)
        assert rest.cardinality() == (3 - epoch) * steps - step
        for a, b in zip(whole[epoch * steps + step :], rest, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("n, batch_size, steps", [(10, 4, 2), (3, 8, 1), (8, 8, 1)])
def test_number_of_steps(n, batch_size, steps):
    dataset, counted = batches.training_batches(samples(n), batch_size=batch_size, epochs=3, seed=0)
    assert counted == steps and len(list(dataset)) == dataset.cardinality() == 3 * steps


def test_evaluation_batches_contain_every_image_once():
    dataset = batches.evaluation_batches(samples(10), batch_size=4)
    assert dataset.cardinality() == 3
    assert collect(dataset)[1].tolist() == list(range(10))
    x, y, counts = map(np.concatenate, zip(*dataset.as_numpy_iterator()))
    assert y.tolist() == [*range(10), 0, 1] and counts.tolist() == [1] * 10 + [0, 0]


def test_levels_of_eps_need_perturbations():
    with pytest.raises(ValueError, match="epsilons .* need perturbations"):
        samples(4, (0.0, 0.1))


def test_zero_levels_repeat_each_image():
    """The data of the defense `augmented`: as many samples as with adversarial images, all of them clean."""
    data = samples(6, (0.0, 0.0, 0.0))
    x, y = collect(batches.evaluation_batches(data, batch_size=5))
    assert len(data) == 18 and y.tolist() == list(range(6)) * 3
    np.testing.assert_array_equal(x[:6], x[12:])


def test_select_keeps_images_labels_and_perturbations_together():
    data = samples(10, (0.1,), perturbed=True).select(np.array([7, 2]))
    assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist() == [7, 2]
    np.testing.assert_array_equal(data.perturbations, samples(10, (0.1,), True).perturbations[[7, 2]])


def test_perturbed_equals_the_step_of_fgsm_exactly():
    x = tf.random.stateless_uniform((3, 4, 4, 1), (0, 1))
    sign = tf.sign(tf.random.stateless_normal((3, 4, 4, 1), (0, 2)))
    stored = tf.cast(127 * sign, tf.int8)
    for eps in (0.01, 0.02, 0.03, 1 / 3):
        np.testing.assert_array_equal(batches.perturbed(x, stored, eps), tf.clip_by_value(x + eps * sign, 0.0, 1.0))


def test_batches_read_the_arrays_in_place():
    """What is written into the arrays afterwards shows in the batches: there is no second copy."""
    data = samples(12, (0.0, 0.1), perturbed=True)
    chosen = data.select(np.arange(12)[::-1])
    assert np.shares_memory(chosen.images.array, data.images)
    training = batches.training_batches(chosen, batch_size=6, epochs=1, seed=0)[0]
    evaluation = batches.evaluation_batches(chosen, batch_size=6)
    data.images[:], data.perturbations[:] = 255, 0
    assert all(np.all(x == 1) for x, *_ in training) and all(np.all(x == 1) for x, *_ in evaluation)


def test_arrays_are_freed_with_the_batches():
    data = samples(12, (0.0, 0.1), perturbed=True).select(np.arange(6))
    seen = weakref.ref(data.images), weakref.ref(data.images.array), weakref.ref(data.perturbations.array)
    dataset = batches.training_batches(data, batch_size=3, epochs=1, seed=0)[0]
    del data
    gc.collect()
    assert len(list(dataset)) == 4 and all(reference() is not None for reference in seen)
    del dataset
    gc.collect()
    assert [reference() for reference in seen] == [None, None, None]
