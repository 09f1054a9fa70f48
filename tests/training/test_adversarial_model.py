"""`AdversarialModel`: what Keras promises of `fit` holds, and each step trains on what the defense attacks."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tfadv.defenses.nfgsm import NFGSM
from tfadv.defenses.online import AdversarialTraining
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import evaluate
from tfadv.models.logits import classifier
from tfadv.runtime.devices import Devices
from tfadv.training.adversarial_model import AdversarialModel
from tfadv.training.schedule import delayed_ramp
from tfadv.training.sgd import SGD
from tfadv.training.steps import Steps

DEFENSES = ["nfgsm", "rsfgsm(share=0.5)", "pgd(steps=2)", "trades(steps=2)", "mart(steps=2)"]
SPARSE = "sparse_categorical_crossentropy"


@pytest.fixture(scope="module")
def data(digits):
    """(x float32 (320, 8, 8, 1) in [0, 1], y int64 (320,))."""
    return digits.images[:320, ::4, ::4].astype("float32") / 255, digits.labels[:320]


def mlp(activation="softmax", classes=10, **policy):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(16, activation="relu", kernel_regularizer="l2", **policy)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(classes, activation=activation)])


def cnn():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1))
    h = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    return keras.Model(x, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(h)))


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


def frozen():
    model = mlp()
    model.layers[1].trainable = False
    return model


def half():
    return mlp(dtype="mixed_float16")


KINDS = [mlp, cnn, subclassed, nested, flat, dropout, frozen, half]


def loss_of(model):
    last = getattr(model.layers[-1], "activation", None)
    probabilities = last is keras.activations.softmax or isinstance(model.layers[-1], keras.layers.Softmax)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)


def robust(model, defense="nfgsm", eps=0.1, optimizer=None, **options):
    """An `AdversarialModel`, compiled without XLA, whose compilation takes longer than these trainings."""
    wrapper = AdversarialModel(model, defense, eps, options.pop("input_range", (0.0, 1.0)))
    settings = {"loss": loss_of(model), "metrics": ["accuracy"], "jit_compile": False} | options
    wrapper.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), **settings)
    return wrapper


def fit(wrapper, x, y=None, **options):
    return wrapper.fit(x, y, **{"verbose": 0, "batch_size": 32, "shuffle": False} | options).history


def assert_same(a, b, **tolerance):
    for left, right in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, **tolerance or {"rtol": 0, "atol": 0})


@pytest.mark.parametrize(
    "kind, defense",
    [
        pytest.param(kind, defense, marks=() if kind is cnn or defense == "nfgsm" else pytest.mark.long)
        for kind in KINDS
        for defense in DEFENSES
    ],
)
def test_every_defense_trains_every_kind_of_model(kind, defense, data):
    x, y = data
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


@pytest.mark.parametrize("defense", DEFENSES)
def test_two_steps_are_those_of_the_command_line(defense, data):
    x, y = (part[:64] for part in data)
    ours, other = cnn(), cnn()
    defense = f"{defense[:-1]}, eps_schedule=fixed)" if "(" in defense else f"{defense}(eps_schedule=fixed)"
    wrapper = robust(ours, defense, optimizer=_sgd(ours))
    fit(wrapper, x, y)
    optimizer = _sgd(other)
    optimizer.build(other.trainable_variables)
    steps = Steps(other, optimizer, Devices())
    for step in range(2):
        batch = slice(32 * step, 32 * step + 32)
        steps.train(wrapper.defense, tf.constant(x[batch]), tf.constant(y[batch]), 0.1, (0, -1 - step))
    assert_same(ours, other)


def _sgd(model):
    optimizer = SGD(decay=0.0)
    optimizer.learning_rate = 0.1
    return optimizer


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 4}])
def test_at_eps_0_it_is_plain_keras(options, data):
    """With pixels from 0 to 255, weights of the classes, and another loss than tfadv's own."""
    x, y = data[0] * 255, keras.utils.to_categorical(data[1], 10)
    weights = {i: 1 + i / 10 for i in range(10)}
    plain, model = (
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), m()]) for m in (mlp, mlp)
    )
    compiled = {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1), "metrics": ["accuracy"]}
    wrapper = robust(model, "nfgsm", 0.0, keras.optimizers.Adam(0.01), input_range=(0, 255), **compiled | options)
    plain.compile(keras.optimizers.Adam(0.01), **{"jit_compile": False} | compiled | options)
    given = {"epochs": 3, "validation_data": (x[:50], y[:50]), "class_weight": weights}
    a, b = fit(wrapper, x, y, **given), fit(plain, x, y, **given)
    for name, values in b.items():
        assert a[name] == (pytest.approx(values, rel=1e-4) if "jit_compile" in options else values)
    assert_same(model, plain, **{"rtol": 1e-3, "atol": 1e-5} if options else {})


def test_xla_changes_rounding_only(data):
    models = [mlp(), mlp()]
    for model, jit in zip(models, (True, False)):
        fit(robust(model, "pgd(steps=2)", optimizer=keras.optimizers.SGD(0.01), jit_compile=jit), *data)
    assert_same(*models, rtol=0, atol=2e-3)


@pytest.mark.parametrize("defense", ["nfgsm", "trades(steps=2)"])
def test_a_weight_of_0_leaves_an_image_out(defense, data):
    """But for the mean, which Keras takes over all images of the batch."""
    x, y = data[0][:32], data[1][:32]
    weighted, rest = mlp(), mlp()
    weights = np.repeat([1.0, 0.0], 16)
    fit(robust(weighted, defense, optimizer=keras.optimizers.SGD(0.1)), x, y, sample_weight=weights)
    # Noise depends on the shape of the batch, so the others are not left out: they have other labels.
    others = np.concatenate([y[:16], (y[16:] + 1) % 10])
    fit(robust(rest, defense, optimizer=keras.optimizers.SGD(0.1)), x, others, sample_weight=weights)
    assert_same(weighted, rest, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("defense", ["nfgsm", "mart(steps=2)"])
def test_class_weights_are_sample_weights(defense, data):
    x, y = data
    a, b = mlp(), mlp()
    fit(robust(a, defense), x, y, class_weight={i: 1.0 + i for i in range(10)})
    fit(robust(b, defense), x, y, sample_weight=(1.0 + y).astype("float32"))
    assert_same(a, b)


def test_labels_of_every_form(data):
    """Class numbers, a column of them, one-hot and smoothed labels; one sigmoid for two classes."""
    x, y = data
    models = [mlp() for _ in range(3)]
    one_hot = keras.utils.to_categorical(y, 10)
    fit(robust(models[0]), x, y)
    fit(robust(models[1]), x, y[:, None])
    fit(robust(models[2], loss="categorical_crossentropy"), x, one_hot)
    assert_same(models[0], models[1])
    assert_same(models[0], models[2], rtol=1e-4, atol=1e-5)
    for defense in DEFENSES:
        model = mlp("sigmoid", 1)
        history = fit(robust(model, defense, 0.02, loss="binary_crossentropy"), x, (y > 4).astype("float32"), epochs=4)
        assert history["loss"][-1] < history["loss"][0] and history["accuracy"][-1] > 0.6, defense


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 32

    def __getitem__(self, i):
        return self.x[32 * i : 32 * i + 32], self.y[32 * i : 32 * i + 32]


def test_data_of_every_form_trains_the_same(data):
    """In one epoch: after data of unknown size, Keras counts one step too many."""
    x, y = data
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    image = keras.Input((8, 8, 1), name="image")
    named = keras.Model({"image": image}, mlp()(image))
    forms = {
        "arrays": (mlp(), (x, y)),
        "tf.data": (mlp(), (batches,)),
        "unknown size": (mlp(), (batches.filter(lambda *_: True),)),
        "PyDataset": (mlp(), (Batches(x, y),)),
        "dicts": (named, (batches.map(lambda x, y: ({"image": x}, y)),)),
    }
    for model, given in forms.values():
        fit(robust(model, "nfgsm(eps_schedule=fixed)", loss=SPARSE), *given)
        assert_same(forms["arrays"][0], model)


def test_data_of_unknown_size_takes_the_full_eps_and_says_so(data, caplog):
    batches = tf.data.Dataset.from_tensor_slices(data).batch(32)
    known, unknown = mlp(), mlp()
    fit(robust(known, "nfgsm(eps_schedule=fixed)"), batches)
    with caplog.at_level("WARNING", logger="tfadv"):
        fit(robust(unknown, "nfgsm"), batches.filter(lambda *_: True))
    assert "does not tell its length, so eps is 0.1 from the first step on" in caplog.text
    assert_same(known, unknown)
    steps = mlp(), mlp()
    fit(robust(steps[0], "nfgsm"), batches)
    fit(robust(steps[1], "nfgsm"), batches.filter(lambda *_: True), steps_per_epoch=10)
    assert_same(*steps)


def test_uint8_images(data):
    x, y = data
    models = [keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), mlp()]) for _ in range(2)]
    for model, images in zip(models, ((x * 255).round().astype("uint8"), (x * 255).round())):
        fit(robust(model, input_range=(0, 255), loss=SPARSE), images, y)
    assert_same(*models)


def test_the_attack_is_that_of_the_defense_and_leaves_batchnorm_alone(data, monkeypatch):
    """The images that reach the model in training are within 3 eps, and BatchNorm has seen these alone."""
    x, y = data[0][:32], data[1][:32]
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
    ramp = [np.float32(delayed_ramp(step, peak=0.1, total=20)) for step in range(20)]
    assert sizes_in_fit(monkeypatch, "ramp", [{"epochs": 4}], 5) == pytest.approx(ramp, rel=1e-6)
    assert set(sizes_in_fit(monkeypatch, "fixed", [{"epochs": 1}], 5)) == {np.float32(0.1)}
    drawn = sizes_in_fit(monkeypatch, "uniform", [{"epochs": 1}], 5)
    assert len(set(drawn)) == 5 and 0 < min(drawn) and max(drawn) < 0.1
    # A second `fit` starts again, or continues where it is told the epoch.
    continued = [{"epochs": 4}, {"epochs": 8, "initial_epoch": 4}]
    longer = [np.float32(delayed_ramp(step, peak=0.1, total=40)) for step in range(20, 40)]
    assert sizes_in_fit(monkeypatch, "ramp", continued, 5)[20:] == pytest.approx(longer, rel=1e-6)
    assert sizes_in_fit(monkeypatch, "ramp", [{"epochs": 4}] * 2, 5)[20:] == pytest.approx(ramp, rel=1e-6)


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("accumulated", [None, 2])
def test_stopped_and_restored_equals_unbroken(accumulated, data, tmp_path):
    def new():
        model = mlp()
        return model, robust(model, optimizer=keras.optimizers.Adam(gradient_accumulation_steps=accumulated))

    whole, wrapper = new()
    fit(wrapper, *data, epochs=4)
    _, broken = new()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, *data, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Stop()])
    model, resumed = new()
    fit(resumed, *data, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_same(model, whole)


def test_saved_and_loaded_it_goes_on(data, tmp_path):
    x, y = data
    model, whole = mlp(), mlp()
    fixed = "nfgsm(eps_schedule=fixed, noise=1)"
    wrapper = robust(model, fixed)
    fit(wrapper, x, y)
    wrapper.save(tmp_path / "robust.keras")
    loaded = keras.models.load_model(tmp_path / "robust.keras")
    assert (loaded.defense, loaded.eps, loaded.input_range) == (wrapper.defense, 0.1, (0.0, 1.0))
    fit(loaded, x, y)
    unbroken = robust(whole, fixed)
    fit(unbroken, x, y)
    fit(unbroken, x, y)
    assert_same(loaded.model, whole)
    # The user's own model has nothing of tfadv in it.
    model.save(tmp_path / "model.keras")
    code = (
        f"import sys, keras; keras.models.load_model({str(tmp_path / 'model.keras')!r}); print('tfadv' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr[-2000:]


def test_mixed_float16_scales_the_loss(data):
    """The gradient of a confident prediction is 0 in float16; the scaled one is not."""
    model, logits = mlp(None, dtype="mixed_float16"), {}
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e6), initial_scale=2.0**20)
    before = model.get_weights()
    tiny = np.full(32, 1e-9, "float32")  # times the loss: float16 ends at 6e-8
    fit(robust(model, "pgd(steps=2)", optimizer=optimizer), data[0][:32], data[1][:32], sample_weight=tiny)
    logits = [np.abs(a - b).max() for a, b in zip(before, model.get_weights())]
    assert int(optimizer.inner_optimizer.iterations) == 1 and min(logits) > 0


def test_clipping_averages_and_frozen_layers_are_those_of_keras(data):
    """Weights that the optimizer averages, and gradients that it clips, are as in plain Keras at eps 0."""
    settings = {"global_clipnorm": 0.01, "use_ema": True, "ema_momentum": 0.9}
    models = [frozen(), frozen()]
    fit(robust(models[0], "nfgsm", 0.0, keras.optimizers.SGD(0.5, **settings)), *data, epochs=2)
    models[1].compile(keras.optimizers.SGD(0.5, **settings), loss=SPARSE, jit_compile=False)
    models[1].fit(*data, epochs=2, verbose=0, batch_size=32, shuffle=False)
    assert_same(*models)


def test_train_on_batch_takes_the_full_eps(data):
    x, y = data[0][:32], data[1][:32]
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
        ({"defense": "nfgsm(epochs=30, average=0.9)"}, ValueError, "epochs, average .* compile.. and fit.. say it"),
        ({"defense": "pgd(eps=0.1)"}, ValueError, "eps is for the command line; here it is an argument"),
        ({"defense": "pgd(awp=0.01)"}, ValueError, "only the command line does"),
        ({"eps": 8}, ValueError, "eps must be at most 1, .* write eps=8 / 255"),
        ({"eps": (0.1, 0.2)}, ValueError, "eps must be one number"),
        ({"eps": 9, "defense": "pgd(norm=l2)"}, ValueError, "eps must be at most 8,"),
        ({"defense": "pgd(norm=l7)"}, UserError, "norm"),
        ({"input_range": (1, 0)}, ValueError, "input_range must be the pair"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        AdversarialModel(mlp(), **arguments)


def test_pixels_of_another_range_are_noticed(data):
    with pytest.raises(ValueError, match=r"pixels from 0 to 255, and input_range is \(0, 1\)"):
        fit(robust(mlp()), data[0] * 255, data[1])
    AdversarialModel(mlp(), input_range=(0, 255)).check_pixels()


def test_a_model_that_augments_images_itself_is_named(caplog):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.RandomRotation(0.1, name="turn"), mlp()])
    with caplog.at_level("WARNING", logger="tfadv"):
        AdversarialModel(model)
    assert "augments images inside the model (turn)" in caplog.text


def test_a_defense_of_ones_own(data):
    class Gray(AdversarialTraining):
        def attack(self, model, x, y, eps, seed):
            return tf.clip_by_value(tf.fill(tf.shape(x), 0.5), x - eps, x + eps)

    a, b = mlp(), mlp()
    fit(robust(a, Gray(eps_schedule="fixed"), 1.0), *data)
    b.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=SPARSE, jit_compile=False)
    b.fit(np.full_like(data[0], 0.5), data[1], verbose=0, batch_size=32, shuffle=False)
    assert_same(a, b)


def test_losses_and_metrics_by_the_names_of_the_outputs(data):
    image = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(10, activation="softmax", name="digit")(keras.layers.Flatten()(image))
    model = keras.Model(image, outputs)
    history = fit(robust(model, loss={"digit": SPARSE}, metrics={"digit": ["accuracy"]}), *data)
    assert {"loss", "accuracy"} <= set(history)


def test_callbacks_of_every_form(data):
    """A callback alone, in sixth place, and a list of Keras that stays as it was."""
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model = mlp()
    wrapper = robust(model)
    wrapper.fit(*data, 32, 1, 0, note)
    given = keras.callbacks.CallbackList([note], model=wrapper, add_history=True, epochs=1, verbose=0, steps=10)
    wrapper.fit(*data, verbose=0, callbacks=given)
    assert seen == [0, 0] and len(given.callbacks) == 2 and int(wrapper._total) == 0
    with pytest.raises(KeyboardInterrupt):
        fit(wrapper, *data, epochs=3, callbacks=Stop())
    assert int(wrapper._total) == 0  # train_on_batch takes the full eps again


def test_one_hot_labels_of_unknown_width(data):
    x, y = data
    known, unknown = mlp(), mlp()
    one_hot = keras.utils.to_categorical(y, 10)
    spec = (tf.TensorSpec((None, 8, 8, 1), tf.float32), tf.TensorSpec((None, None), tf.float32))
    batches = tf.data.Dataset.from_tensor_slices((x, one_hot)).batch(32)
    generated = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    fit(robust(known, loss="categorical_crossentropy"), batches, steps_per_epoch=10)
    fit(robust(unknown, loss="categorical_crossentropy"), generated, steps_per_epoch=10)
    assert_same(known, unknown)


def test_the_policy_is_that_of_the_model_and_pixels_are_not_cast():
    model = mlp(dtype="mixed_float16")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = mlp()
        scaled = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 65535, dtype="float32"), half])
        assert isinstance(robust(scaled).optimizer, keras.optimizers.LossScaleOptimizer)
        x = np.random.default_rng(0).uniform(0, 65535, (4, 8, 8, 1)).astype("float32")
        wrapper = robust(scaled, input_range=(0, 65535))
        np.testing.assert_array_equal(wrapper.predict(x, verbose=0), scaled.predict(x, verbose=0))
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(robust(half).optimizer, keras.optimizers.LossScaleOptimizer)
    assert not isinstance(robust(model).optimizer, keras.optimizers.LossScaleOptimizer)  # only a layer is in half


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(x / 255, training=training)


def test_a_sequential_model_with_a_call_of_its_own_is_attacked_through_it():
    keras.utils.set_random_seed(0)
    model = Scaled([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
    wrapper = AdversarialModel(model, input_range=(0, 255))
    np.testing.assert_allclose(wrapper.classifier(x), model(x * 255), rtol=1e-5)


def test_evaluate_and_classifier_take_it(data):
    x, y = (part[:50] for part in data)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), mlp()])
    wrapper = robust(model, input_range=(0, 255), loss=SPARSE)
    fit(wrapper, data[0] * 255, data[1], epochs=3)
    expected = evaluate(classifier(model, (0, 255), quiet=True), x, y, "pgd(steps=2)", 0.05)
    found = evaluate(wrapper, x, y, "pgd(steps=2)", 0.05)
    np.testing.assert_array_equal(found.robust, expected.robust)
    assert found.clean_accuracy > 0.5 and classifier(wrapper) is wrapper.classifier
    assert wrapper.input_shape == (None, 8, 8, 1) and wrapper.output_shape == (None, 10)


def test_an_unregistered_defense_is_not_saved(tmp_path):
    class Own(NFGSM):
        pass

    with pytest.raises(ValueError, match="own is not registered in DEFENSES: save robust.model instead"):
        AdversarialModel(mlp(), Own()).save(tmp_path / "robust.keras")


def test_the_stronger_attack_keeps_the_settings():
    found = NFGSM(norm="l2", eps=1, eps_schedule="fixed", share=0.5, smoothing=0.1).fallback()
    assert found.label == "pgd(eps=1.0, eps_schedule=fixed, norm=l2, share=0.5, smoothing=0.1, steps=2)"
