import keras
import numpy as np
import pytest

from tfadv import models
from tfadv.attacks import fgsm
from tfadv.datasets.batches import Samples
from tfadv.evaluation import records
from tfadv.evaluation.accuracy import hits


def evaluate(model, samples, **settings):
    of = dict(dataset="none", model="tiny", variant="baseline", seed=0)
    return records.of_fgsm(hits(model, samples, **settings), samples.epsilons, "tiny", **of)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return models.build("resnet_tiny", (16, 16, 1), 3)


@pytest.fixture(scope="module")
def samples(model):
    """50 images, most of which the model has right, with random stored perturbations."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 16, 16, 1), dtype=np.uint8)
    labels = np.argmax(model(images.astype("float32") / 255), axis=1)
    labels[20:35] = (labels[20:35] + 1) % 3
    p = rng.choice(np.array([-127, 127], np.int8), images.shape)
    return Samples(images, labels, p, (0.02, 0.5))


def test_counts_equal_those_of_an_independent_path(model, samples):
    records = evaluate(model, samples, batch_size=16)
    x = samples.images.astype("float32") / np.float32(255)
    images = {("clean", None): x}
    for eps in samples.epsilons:
        images["whitebox", eps] = fgsm(model, x, samples.labels, eps).numpy()
        images["transfer", eps] = np.clip(x + np.float32(eps) * (samples.perturbations / np.float32(127)), 0, 1)
    assert len(records) == 5
    clean = model.predict(x, verbose=0).argmax(1) == samples.labels
    luck = 0
    for record in records:
        right = model.predict(images[record["protocol"], record["eps"]], verbose=0).argmax(1) == samples.labels
        luck += (right & ~clean).sum()  # wrong on the image itself, right on the attacked one
        assert record["correct"] == (right & clean).sum() and record["n"] == 50
        assert record["accuracy"] == (right & clean).mean()
    assert luck > 0  # or the test would not notice if they counted
    assert records[0]["correct"] == 35
    whitebox = [r["correct"] for r in records if r["protocol"] == "whitebox"]
    assert whitebox[1] < whitebox[0] < 35  # FGSM does harm, or this test compares nothing


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_does_not_matter(model, samples, batch_size):
    assert evaluate(model, samples, batch_size=batch_size) == evaluate(model, samples, batch_size=50)


def test_statistics_stay(model, samples):
    before = model.get_weights()
    evaluate(model, samples, batch_size=16)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_xla_counts_the_same(model, samples):
    plain, compiled = (evaluate(model, samples, batch_size=16, jit_compile=jit) for jit in ("false", "true"))
    assert all(abs(a["correct"] - b["correct"]) <= 1 for a, b in zip(plain, compiled, strict=True))
