"""A batch that is processed in parts gives the update of the whole batch."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.config import Config
from tfadv.datasets.batches import Samples
from tfadv.defenses.base import Defense
from tfadv.defenses.mart import MART
from tfadv.defenses.nfgsm import NFGSM
from tfadv.defenses.online import AdversarialTraining, ascend, random_start
from tfadv.defenses.trades import TRADES
from tfadv.errors import UserError
from tfadv.runtime import compilation
from tfadv.training import Trainer, TrainingSettings


@dataclasses.dataclass(frozen=True)
class Deterministic(AdversarialTraining):
    """Attacks from the images themselves, because each part of a batch has its own random numbers."""

    awp: float = 0.0

    def attack(self, model, x, y, eps, seed):
        return ascend(model, x, y, x, eps, steps=2)


def network(norm=False):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), *([keras.layers.BatchNormalization(name="norm")] if norm else [])]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(5)])


def batches(number=3, size=12):
    rng = np.random.default_rng(0)
    for _ in range(number):
        yield tf.constant(rng.uniform(size=(size, 8, 8, 1)), tf.float32), tf.constant(rng.integers(0, 5, size))


def trained(defense, parts, uniform):
    """(weights, sums) after some steps."""
    model = network()
    trainer = Trainer(model, weight_decay=0.01, defense=defense, batch_parts=parts)
    trainer._optimizer.learning_rate = 0.1
    sums = [trainer.train_step(x, y, 0.1, (0, step), uniform).numpy() for step, (x, y) in enumerate(batches())]
    return model.get_weights(), np.array(sums)


@pytest.mark.parametrize(
    "defense, uniform, jit_compile",
    [
        (Defense(), False, "false"),
        (Deterministic(), False, "false"),
        (Deterministic(), True, "false"),  # of sizes that are drawn for each image
        (Deterministic(awp=0.2), False, "false"),
        pytest.param(Deterministic(awp=0.2), True, "true", marks=pytest.mark.long),
    ],
    ids=["clean", "adversarial", "uniform", "awp", "xla"],
)
def test_the_update_is_that_of_the_whole_batch(defense, uniform, jit_compile):
    compilation.configure(jit_compile=jit_compile)
    try:
        (whole, sums), (in_parts, sums_of_parts) = (trained(defense, parts, uniform) for parts in (1, 3))
    finally:
        compilation.configure()
    np.testing.assert_allclose(sums_of_parts, sums, rtol=1e-4)
    for a, b, start in zip(whole, in_parts, network().get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert np.abs(a - start).max() > 1e-2


def test_each_part_has_its_own_random_numbers():
    """Neither those of another part, nor those of the sizes that are drawn for each image."""
    starts = []

    @dataclasses.dataclass(frozen=True)
    class Recorded(AdversarialTraining):
        def attack(self, model, x, y, eps, seed):
            adversarial = random_start(x, eps, seed)
            starts.append((adversarial - x) / eps)  # the random start in units of eps, from -1 to 1
            sizes.append(eps)
            return adversarial

    sizes = []
    trainer = Trainer(network(), weight_decay=0.0, defense=Recorded(), batch_parts=3)
    tf.config.run_functions_eagerly(True)
    try:
        x, y = tf.fill((12, 8, 8, 1), 0.5), tf.zeros(12, tf.int64)
        trainer.train_step(x, y, 0.2, (0, 0), uniform=True)
    finally:
        tf.config.run_functions_eagerly(False)
    noise = [start.numpy().ravel() for start in starts]
    of_sizes = 2 * np.concatenate(sizes).ravel() / 0.2 - 1
    assert len(noise) == 3 and len(of_sizes) == 12
    for a, b in [(noise[0], noise[1]), (noise[1], noise[2]), *((part[:12], of_sizes) for part in noise)]:
        assert np.abs(a - b).max() > 0.1


def check_step_in_parts(model, defense):
    """Takes one step of a batch in three parts."""
    trainer = Trainer(model, weight_decay=0.0, defense=defense, batch_parts=3)
    trainer._optimizer.learning_rate = 0.1
    (x, y), before = next(batches(1)), model.get_weights()
    losses, _, images = trainer.train_step(x, y, 0.1, (0, 0)).numpy()
    assert np.isfinite(losses) and images == 12
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("defense", [TRADES(steps=1), MART(steps=1), NFGSM(share=0.5)], ids=lambda o: type(o).__name__)
def test_other_defenses_train_in_parts(defense):
    check_step_in_parts(network(), defense)


def test_a_model_with_an_embedding_trains_in_parts():
    """Its gradient is sparse."""
    inputs = keras.Input((8, 8, 1))
    rows = keras.layers.Lambda(lambda x: tf.cast(x[:, :, 0, 0] * 3, tf.int32))(inputs)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(3, 4)(rows))
    check_step_in_parts(keras.Model(inputs, keras.layers.Dense(5)(embedded)), Defense())


def test_batchnorm_sees_one_part_at_a_time():
    model = network(norm=True)
    (x, y), norm = next(batches(1)), model.get_layer("norm")
    moving = np.zeros(4)
    for part in np.split(x, 3):
        of_part = model.layers[0](part).numpy()
        moving = norm.momentum * moving + (1 - norm.momentum) * of_part.mean(axis=(0, 1, 2))
    Trainer(model, weight_decay=0.0, defense=Defense(), batch_parts=3).train_step(x, y)
    np.testing.assert_allclose(norm.moving_mean.numpy(), moving, rtol=1e-4)


def test_a_run_in_parts_uses_full_batches_only():
    (x, y), settings = next(batches(1, 50)), TrainingSettings(1, 100, 0.1, 1)
    samples = Samples(x.numpy(), y.numpy())
    trainer = Trainer(network(), weight_decay=0.0, defense=Defense(), batch_parts=4)
    assert trainer.fit(samples, samples, settings)["gradients"] == 48  # a multiple of 4
    with pytest.raises(UserError, match="30 images can't be shared equally in 4 parts: give .* a multiple of 4"):
        trainer.fit(samples, samples, dataclasses.replace(settings, batch_size=30))
    few = samples.select(slice(0, 3))
    with pytest.raises(UserError, match="3 training images can't be shared by 4 devices or parts of a batch"):
        trainer.fit(few, samples, settings)


def test_settings_that_do_not_fit_are_named():
    assert Config(batch_size=64, batch_parts=4).images_at_once == 16
    with pytest.raises(UserError, match="--batch_size=30 can't be processed in 4 equal parts"):
        Config(batch_size=30, batch_parts=4)
