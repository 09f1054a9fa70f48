import functools

import keras
import numpy as np
import pytest

from tfadv import attacks, models
from tfadv.config import ATTACKS
from tfadv.evaluation import records, strength

EPSILONS = (0.02, 0.1)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return models.build("resnet_tiny", (16, 16, 1), 4)


@pytest.fixture(scope="module")
def labelled(model):
    """(images uint8 (40, 16, 16, 1), labels), of which the model has 30 right."""
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    labels = model.predict(images.astype("float32") / 255, verbose=0).argmax(1)
    labels[:10] = (labels[:10] + 1) % 4
    return images, labels


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_counts_equal_those_of_an_independent_path(model, labelled, name):
    images, labels = labelled
    found, cost = strength.withstood(model, images, labels, name, EPSILONS, batch_size=40, seed=5)
    x = images.astype("float32") / np.float32(255)
    adversarial = attacks.get(name)(model, x, labels, list(EPSILONS), seed=5).numpy()
    assert found.shape == (2, 40) and not found[:, :10].any()  # wrong already
    for row, attacked in zip(found, adversarial):
        right = model.predict(attacked, verbose=0).argmax(1) == labels
        np.testing.assert_array_equal(row, right & (np.arange(40) >= 10))
    assert found[1].sum() < found[0].sum() < 30
    assert cost["gradients"] > 0 and cost["seconds"] > 0


@pytest.mark.parametrize("name", ["pgd", "apgd-ce"])
def test_batches_do_not_matter(model, labelled, name):
    done = []
    whole, _ = strength.withstood(model, *labelled, name, EPSILONS, batch_size=40, seed=0)
    parts, _ = strength.withstood(model, *labelled, name, EPSILONS, batch_size=7, seed=0, progress=done.append)
    assert sum(done) == 40
    assert (whole != parts).sum() <= 1  # rounding


def test_autoattack_says_what_each_part_left(model, labelled, monkeypatch):
    images, labels = labelled
    monkeypatch.setitem(attacks.ATTACKS, "autoattack", functools.partial(attacks.autoattack, queries=20, steps=5))
    done, common = [], dict(batch_size=16, seed=0)
    found, cost = strength.withstood(model, images, labels, "autoattack", EPSILONS, progress=done.append, **common)
    assert sum(done) == 40 and len(done) == 8 and set(done) == {5}  # four attacks at two eps
    assert list(cost["unbroken"]) == ["apgd-ce", "apgd-t", "fab", "square"]
    for k in range(2):
        left = [numbers[k] for numbers in cost["unbroken"].values()]
        assert left == sorted(left, reverse=True) and left[-1] == found[k].sum()
    twice = strength.add([cost, cost])
    assert twice["gradients"] == 2 * cost["gradients"]
    assert twice["unbroken"]["square"] == [2 * n for n in cost["unbroken"]["square"]]


def test_every_attack_has_settings_and_the_flags_know_them_all():
    assert tuple(attacks.ATTACKS) == ATTACKS
    for name in ATTACKS:
        made = strength.settings(name)
        assert made and not {"model", "x", "seed", "cost"} & set(made)
    assert strength.settings("apgd-t")["loss"] == "dlr-t" and strength.settings("autoattack")["queries"] == 5000


def test_records_of_an_attack():
    found = np.array([[True] * 3 + [False] * 7, [False] * 10])
    cost = {"gradients": 50, "forwards": 20, "seconds": 1.5, "instead": {}, "unbroken": {}}
    of = dict(dataset="digits", model="tiny", variant="baseline", seed=0)
    first, second = records.of_attack("pgd", found, EPSILONS, {"steps": 10}, cost, **of)
    assert (first["accuracy"], first["correct"], first["n"], first["eps"]) == (0.3, 3, 10, 0.02)
    assert first["interval"][0] < 0.3 < first["interval"][1] and second["interval"][0] == 0
    assert first["cost"]["gradients_per_image"] == 5 and first["settings"] == {"steps": 10}
    assert records.short(first) == "pgd 0.02: 30.0%"
