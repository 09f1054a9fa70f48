"""A batch that is processed in parts gives the update of the whole batch."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv.config import Config
from tfadv.datasets.batches import Samples
from tfadv.errors import UserError
from tfadv.objectives.adversarial import ascend
from tfadv.objectives.cross_entropy import cross_entropy, smoothed_cross_entropy
from tfadv.objectives.free import FreeTraining
from tfadv.objectives.nfgsm import NFGSM
from tfadv.runtime import compilation
from tfadv.training import Trainer, TrainingSettings


@dataclasses.dataclass(frozen=True)
class WithoutChance(FreeTraining):
    """Attacks from the images themselves, because each part of a batch has its own random numbers."""

    replays: int = 1
    awp: float = 0.0

    def attack(self, model, x, y, eps, seed):
        return ascend(model, x, y, x, eps, steps=2)

    @property
    def weight_perturbation(self):
        return self.awp


def network(norm=False):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), *([keras.layers.BatchNormalization(name="norm")] if norm else [])]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(5)])


def batches(number=3, size=12):
    rng = np.random.default_rng(0)
    for _ in range(number):
        yield tf.constant(rng.uniform(size=(size, 8, 8, 1)), tf.float32), tf.constant(rng.integers(0, 5, size))


def trained(objective, parts, **options):
    """(weights, sums) after some steps."""
    model = network()
    trainer = Trainer(model, weight_decay=0.01, objective=objective, batch_parts=parts)
    trainer._optimizer.learning_rate = 0.1
    sums = [trainer.train_step(x, y, 0.1, (0, step), **options).numpy() for step, (x, y) in enumerate(batches())]
    return model.get_weights(), np.array(sums)


@pytest.mark.parametrize("jit_compile", ["false", "true"])
@pytest.mark.parametrize(
    "objective",
    [cross_entropy, WithoutChance(), WithoutChance(replays=3), WithoutChance(awp=0.2)],
    ids=["clean", "adversarial", "replayed", "awp"],
)
def test_the_update_is_that_of_the_whole_batch(objective, jit_compile):
    compilation.configure(jit_compile=jit_compile)
    try:
        (whole, sums), (in_parts, sums_of_parts) = trained(objective, 1), trained(objective, 3)
    finally:
        compilation.configure()
    np.testing.assert_allclose(sums_of_parts, sums, rtol=1e-4)
    for a, b, start in zip(whole, in_parts, network().get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert np.abs(a - start).max() > 1e-2


def test_each_part_has_its_own_sizes_and_random_numbers():
    """With one image in each part, four times: they differ where each draws for itself."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Recorded(NFGSM):
        def losses_of(self, logits, y):
            seen.append(logits)
            return smoothed_cross_entropy(logits, y), logits

    model = network()
    trainer = Trainer(model, weight_decay=0.0, objective=Recorded(), batch_parts=4)
    x = tf.fill((4, 8, 8, 1), 0.5)
    per_image = []
    trainer._steps._over_parts, over_parts = (
        lambda function, *tensors: per_image.append(over_parts(function, *tensors)) or per_image[-1],
        trainer._steps._over_parts,
    )
    tf.config.run_functions_eagerly(True)
    try:
        trainer.train_step(x, tf.constant([0, 1, 2, 3], tf.int64), 0.2, (0, 0), uniform=True)
    finally:
        tf.config.run_functions_eagerly(False)
    (adversarial,) = per_image[0][1]
    sizes = np.abs(adversarial.numpy() - 0.5).reshape(4, -1).max(axis=1)
    assert len(np.unique(sizes.round(4))) == 4 and seen
    assert not np.allclose(np.sign(adversarial[0] - 0.5), np.sign(adversarial[1] - 0.5))


def test_batchnorm_sees_one_part_at_a_time():
    model = network(norm=True)
    (x, y), norm = next(batches(1)), model.get_layer("norm")
    moving = np.zeros(4)
    for part in np.split(x, 3):
        of_part = model.layers[0](part).numpy()
        moving = norm.momentum * moving + (1 - norm.momentum) * of_part.mean(axis=(0, 1, 2))
    Trainer(model, weight_decay=0.0, objective=cross_entropy, batch_parts=3).train_step(x, y)
    np.testing.assert_allclose(norm.moving_mean.numpy(), moving, rtol=1e-4)


def test_a_run_in_parts_uses_full_batches_only():
    (x, y), settings = next(batches(1, 50)), TrainingSettings(1, 100, 0.1, 1)
    samples = Samples(x.numpy(), y.numpy())
    trainer = Trainer(network(), weight_decay=0.0, objective=cross_entropy, batch_parts=4)
    assert trainer.fit(samples, samples, settings)["gradients"] == 48  # a multiple of 4
    with pytest.raises(UserError, match="in 4 parts each: give a multiple of 4"):
        trainer.fit(samples, samples, dataclasses.replace(settings, batch_size=30))


def test_settings_that_do_not_fit_are_named():
    assert Config(batch_size=64, batch_parts=4).images_at_once == 16
    with pytest.raises(UserError, match="--batch_size=30 can't be processed in 4 equal parts"):
        Config(batch_size=30, batch_parts=4)
