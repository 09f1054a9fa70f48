"""Each step of an `AdversarialModel` trains on what its defense attacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.training.wrapped import SPARSE, assert_same, cnn, fit, frozen, mlp, robust
from tfadv.defenses.nfgsm import NFGSM
from tfadv.defenses.online import AdversarialTraining
from tfadv.errors import UserError
from tfadv.runtime.devices import Devices
from tfadv.training.adversarial_model import AdversarialModel
from tfadv.training.schedule import delayed_ramp
from tfadv.training.sgd import SGD
from tfadv.training.steps import Steps

DEFENSES = ["nfgsm", "rsfgsm(share=0.5)", "pgd(steps=2)", "trades(steps=2)", "mart(steps=2)"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

    def call(self, x):  # without `training`
        return self.dense(self.flatten(x))


def subclassed():
    keras.utils.set_random_seed(0)
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


def nested():
    return keras.Sequential([keras.Input((8, 8, 1)), cnn(), keras.layers.Softmax()])


def flat():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(10)])


def dropout():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dropout(0.3, seed=1), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def half():
    return mlp(dtype="mixed_float16")


KINDS = [mlp, cnn, subclassed, nested, flat, dropout, frozen, half]


@pytest.mark.parametrize(
    "kind, defense",
    [
        pytest.param(kind, defense, marks=() if kind is cnn or defense == "nfgsm" else pytest.mark.long)
        for kind in KINDS
        for defense in DEFENSES
    ],
)
def test_every_defense_trains_every_kind_of_model(kind, defense, small_digits):
    x, y = small_digits
    x = x[..., 0] if kind is flat else x
    model = kind()
    before = model.get_weights()
    wrapper = robust(model, defense)
    names = [v.path for v in wrapper.weights]
    history = fit(wrapper, x[:80], y[:80], epochs=2)  # the last batch is smaller
    assert np.isfinite(history["loss"]).all() and set(history) == {"loss", "accuracy"}
    changed = [(a != b).any() for a, b in zip(before, model.get_weights())]
    assert sum(changed) >= 2 and changed[-1] and not (kind is frozen and changed[0])
    assert names == [v.path for v in model.weights] and not model.compiled


@pytest.mark.parametrize("defense", [*DEFENSES, "pgd(steps=2, norm=linf+l1)"])
def test_two_steps_are_those_of_the_command_line(defense, small_digits):
    x, y = (part[:64] for part in small_digits)
    ours, other = cnn(), cnn()
    defense = f"{defense[:-1]}, eps_schedule=fixed)" if "(" in defense else f"{defense}(eps_schedule=fixed)"
    wrapper = robust(ours, defense, (0.1, 2) if "+" in defense else 0.1, optimizer=_sgd())
    fit(wrapper, x, y)
    optimizer = _sgd()
    optimizer.build(other.trainable_variables)
    steps = Steps(other, optimizer, Devices())
    for step in range(2):
        batch = slice(32 * step, 32 * step + 32)
        steps.train(wrapper.defense, tf.constant(x[batch]), tf.constant(y[batch]), 0.1, (0, -1 - step))
    assert_same(ours, other)


def _sgd():
    optimizer = SGD(decay=0.0)
    optimizer.learning_rate = 0.1
    return optimizer


def test_xla_changes_rounding_only(small_digits):
    models = [mlp(), mlp()]
    for model, jit in zip(models, (True, False)):
        fit(robust(model, "pgd(steps=2)", optimizer=keras.optimizers.SGD(0.01), jit_compile=jit), *small_digits)
    assert_same(*models, rtol=0, atol=2e-3)


@pytest.mark.parametrize("defense", ["nfgsm", "trades(steps=2)"])
def test_a_weight_of_0_leaves_an_image_out(defense, small_digits):
    """But for the mean, which Keras takes over all images of the batch."""
    x, y = small_digits[0][:32], small_digits[1][:32]
    weighted, rest = mlp(), mlp()
    weights = np.repeat([1.0, 0.0], 16)
    fit(robust(weighted, defense, optimizer=keras.optimizers.SGD(0.1)), x, y, sample_weight=weights)
    # Noise depends on the shape of the batch, so the others are not left out: they have other labels.
    others = np.concatenate([y[:16], (y[16:] + 1) % 10])
    fit(robust(rest, defense, optimizer=keras.optimizers.SGD(0.1)), x, others, sample_weight=weights)
    assert_same(weighted, rest, rtol=1e-6, atol=1e-7)


def test_the_attack_is_that_of_the_defense_and_leaves_batchnorm_alone(small_digits, monkeypatch):
    """The images that reach the model in training are within 3 eps, and BatchNorm has seen these alone."""
    x, y = small_digits[0][:32], small_digits[1][:32]
    model, seen = cnn(), []
    call = keras.Model.__call__

    def spied(self, inputs, *args, training=None, **options):
        if self is model and training:
            seen.append(np.asarray(inputs))
        return call(self, inputs, *args, training=training, **options)

    monkeypatch.setattr(keras.Model, "__call__", spied)
    fit(robust(model, "nfgsm(eps_schedule=fixed)", 0.05, run_eagerly=True), x, y)
    (attacked,) = seen
    assert 0.05 < np.abs(attacked - x).max() <= 0.15 + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    features = cnn().layers[1](attacked)  # with the weights from before
    np.testing.assert_allclose(norm.moving_mean, 0.01 * np.mean(features, (0, 1, 2)), rtol=1e-4, atol=1e-6)


def sizes_in_fit(monkeypatch, schedule, fits, steps):
    """eps of each step, as the attack gets it."""
    sizes = []
    attack = NFGSM.attack

    def spied(self, model, x, y, eps, seed):
        sizes.append(np.asarray(eps).ravel()[0])
        return attack(self, model, x, y, eps, seed)

    monkeypatch.setattr(NFGSM, "attack", spied)
    x, y = np.zeros((32 * steps, 8, 8, 1), "float32"), np.zeros(32 * steps, int)
    wrapper = robust(mlp(), f"nfgsm(eps_schedule={schedule})", 0.1, run_eagerly=True)
    for options in fits:
        fit(wrapper, x, y, **options)
    return sizes


def test_eps_grows_over_the_steps_of_fit(monkeypatch):
    ramp = [np.float32(delayed_ramp(step, peak=0.1, total=10)) for step in range(10)]
    assert set(sizes_in_fit(monkeypatch, "fixed", [{"epochs": 1}], 5)) == {np.float32(0.1)}
    drawn = sizes_in_fit(monkeypatch, "uniform", [{"epochs": 1}], 5)
    assert len(set(drawn)) == 5 and 0 < min(drawn) and max(drawn) < 0.1
    # A second `fit` continues where it is told the epoch, or starts again.
    fits = [{"epochs": 2}, {"epochs": 4, "initial_epoch": 2}, {"epochs": 2}]
    longer = [np.float32(delayed_ramp(step, peak=0.1, total=20)) for step in range(10, 20)]
    assert sizes_in_fit(monkeypatch, "ramp", fits, 5) == pytest.approx([*ramp, *longer, *ramp], rel=1e-6)


def test_train_on_batch_takes_the_full_eps(small_digits):
    x, y = small_digits[0][:32], small_digits[1][:32]
    one, other = mlp(), mlp()
    robust(one, "nfgsm").train_on_batch(x, y)
    fit(robust(other, "nfgsm(eps_schedule=fixed)"), x, y)
    assert_same(one, other)


TWO_DEVICES = """
import tfadv, keras, numpy as np, tensorflow as tf
from tfadv.defenses import pgd
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = np.random.default_rng(0).uniform(size=(64, 8, 8, 1)).astype("float32"), np.arange(64) % 3
def train(defense):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    robust = tfadv.AdversarialModel(model, defense, 0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    robust.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"], jit_compile=False)
    history = robust.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    return model.get_weights(), history["loss"]
for defense in ("pgd(steps=2)", "pgd(steps=2, smoothing=0.1)"):  # the second has a loss of its own
    pgd.random_start = lambda x, *_: x  # noise depends on the device
    one, loss = train(defense)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        two, distributed = train(defense)
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, distributed, rtol=1e-5)
print("alike")
"""


def test_two_devices_train_as_one():
    done = commands.python(TWO_DEVICES)
    assert "alike" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"defense": "nfgms"}, UserError, "did you mean 'nfgsm'"),
        ({"defense": "nfgsm(shar=1)"}, UserError, "has no setting 'shar'"),
        ({"defense": "nfgsm(share=2)"}, UserError, "share must be a finite number above 0"),
        ({"defense": "nfgsm,pgd"}, ValueError, "one defense"),
        ({"defense": "control"}, ValueError, "control does not attack in each step: it trains as fit does"),
        ({"defense": "rounds"}, ValueError, "needs stored images, which the command line makes"),
        ({"defense": "nfgsm(epochs=30, average=0.9)"}, ValueError, "epochs, average .* compile and fit say it"),
        ({"defense": "pgd(eps=0.1)"}, ValueError, "eps is for the command line; here it is an argument"),
        ({"defense": "pgd(awp=0.01)"}, ValueError, "only the command line does"),
        ({"eps": 8}, ValueError, "eps must be at most 1, .* write eps=8 / 255"),
        ({"eps": (0.1, 0.2)}, ValueError, "eps must be one number"),
        ({"defense": "pgd(norm=linf+l1)"}, ValueError, "eps must be a number for each of norm=linf.l1"),
        ({"defense": "pgd(norm=l1+linf)", "eps": (12, 8)}, ValueError, "eps must be at most 1"),
        ({"defense": "pgd(norm=linf+l1)", "eps": (0.1, 99)}, ValueError, "eps must be at most 64,"),
        ({"eps": 9, "defense": "pgd(norm=l2)"}, ValueError, "eps must be at most 8,"),
        ({"defense": "pgd(norm=l7)"}, UserError, "norm"),
        ({"input_range": (1, 0)}, ValueError, "input_range must be the pair"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        AdversarialModel(mlp(), **arguments)


def test_pixels_of_another_range_are_noticed(small_digits):
    """In the first batch, and in one in the middle of an epoch; the next `fit` starts afresh."""
    x, y = small_digits
    wrapper = robust(mlp())
    with pytest.raises(ValueError, match=r"pixels from 0 to 255, and input_range is \(0, 1\)"):
        fit(wrapper, x * 255, y)
    later = np.concatenate([x[:32], x[32:64] * 3, x[64:]])
    with pytest.raises(ValueError, match=r"pixels from 0 to 3, and input_range is \(0, 1\)"):
        fit(wrapper, later, y)
    fit(wrapper, x, y)
    fit(robust(mlp(), input_range=(-1, 1)), x * 2 - 1, y)


def test_a_model_that_augments_images_itself_is_named(caplog):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.RandomRotation(0.1, name="turn"), mlp()])
    with caplog.at_level("WARNING", logger="tfadv"):
        AdversarialModel(model)
    assert "augments images inside the model (turn)" in caplog.text


def test_a_defense_of_ones_own(small_digits):
    class Gray(AdversarialTraining):
        def attack(self, model, x, y, eps, seed):
            return tf.clip_by_value(tf.fill(tf.shape(x), 0.5), x - eps, x + eps)

    a, b = mlp(), mlp()
    fit(robust(a, Gray(eps_schedule="fixed"), 1.0), *small_digits)
    b.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=SPARSE, jit_compile=False)
    b.fit(np.full_like(small_digits[0], 0.5), small_digits[1], verbose=0, batch_size=32, shuffle=False)
    assert_same(a, b)


def test_the_stronger_attack_keeps_the_settings():
    found = NFGSM(norm="l2", eps=1, eps_schedule="fixed", share=0.5, smoothing=0.1).fallback()
    assert found.label == "pgd(eps=1.0, eps_schedule=fixed, norm=l2, share=0.5, smoothing=0.1, steps=2)"
