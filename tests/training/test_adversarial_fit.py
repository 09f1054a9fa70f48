"""What Keras promises of `compile` and `fit` holds for an `AdversarialModel`."""

import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.wrapped import SPARSE, Stop, assert_same, fit, frozen, mlp, robust
from tfadv.attacks import PGD
from tfadv.defenses.nfgsm import NFGSM
from tfadv.evaluation.evaluator import evaluate
from tfadv.models.logits import classifier
from tfadv.training.adversarial_model import AdversarialModel
from tfadv.training.callbacks import RobustAccuracy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        {"steps_per_execution": 4},
        pytest.param({"jit_compile": True}, marks=pytest.mark.long),
    ],
)
def test_at_eps_0_it_is_plain_keras(options, small_digits):
    """With pixels from 0 to 255, weights of the classes, and another loss than tfadv's own."""
    x, y = small_digits[0] * 255, keras.utils.to_categorical(small_digits[1], 10)
    weights = {i: 1 + i / 10 for i in range(10)}
    plain, model = (
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), m()]) for m in (mlp, mlp)
    )
    compiled = {"loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1), "metrics": ["accuracy"]}
    wrapper = robust(model, "nfgsm", 0.0, keras.optimizers.Adam(0.01), input_range=(0, 255), **compiled | options)
    plain.compile(keras.optimizers.Adam(0.01), **{"jit_compile": False} | compiled | options)
    given = {"epochs": 2, "validation_data": (x[:50], y[:50]), "class_weight": weights}
    a, b = fit(wrapper, x, y, **given), fit(plain, x, y, **given)
    for name, values in b.items():
        assert a[name] == (pytest.approx(values, rel=1e-4) if "jit_compile" in options else values)
    assert_same(model, plain, **{"rtol": 1e-3, "atol": 1e-5} if options else {})


@pytest.mark.parametrize("defense", ["nfgsm", "mart(steps=2)"])
def test_class_weights_are_sample_weights(defense, small_digits):
    x, y = small_digits
    a, b = mlp(), mlp()
    fit(robust(a, defense), x, y, class_weight={i: 1.0 + i for i in range(10)})
    fit(robust(b, defense), x, y, sample_weight=(1.0 + y).astype("float32"))
    assert_same(a, b)


def test_labels_of_every_form(small_digits):
    """Class numbers, a column of them, one-hot and smoothed labels; one sigmoid for two classes."""
    x, y = small_digits
    models = [mlp() for _ in range(3)]
    one_hot = keras.utils.to_categorical(y, 10)
    fit(robust(models[0]), x, y)
    fit(robust(models[1]), x, y[:, None])
    fit(robust(models[2], loss="categorical_crossentropy"), x, one_hot)
    assert_same(models[0], models[1])
    assert_same(models[0], models[2], rtol=1e-4, atol=1e-5)
    for defense in ("nfgsm", "mart(steps=2)"):  # with the loss of `compile`, and with one of its own
        model = mlp("sigmoid", 1)
        history = fit(robust(model, defense, 0.02, loss="binary_crossentropy"), x, (y > 4).astype("float32"), epochs=4)
        assert history["loss"][-1] < history["loss"][0] and history["accuracy"][-1] > 0.6, defense


@pytest.mark.parametrize("defense", ["nfgsm(smoothing=0.1)", "mart(steps=1)"])
def test_a_loss_of_its_own_refuses_labels_that_it_would_harden(defense, small_digits):
    x, y = small_digits
    one_hot = keras.utils.to_categorical(y, 10)
    later = np.concatenate([y[:64], [-1], y[65:]])
    wrapper = robust(mlp(), defense, loss="categorical_crossentropy")
    with pytest.raises(ValueError, match=f"{re.escape(defense)} has a loss of its own, .* smoothed, mixed or below 0"):
        fit(wrapper, x, 0.7 * one_hot + 0.3 * one_hot[::-1])
    fit(wrapper, x, one_hot + np.float32(1e-5))
    with pytest.raises(ValueError, match="below 0"):
        fit(robust(mlp(), defense), x, later)
    fit(robust(mlp(), loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)), x, later)
    fit(robust(mlp(), loss="categorical_crossentropy"), x, 0.9 * one_hot + 0.01)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 32

    def __getitem__(self, i):
        return self.x[32 * i : 32 * i + 32], self.y[32 * i : 32 * i + 32]


def test_data_of_every_form_trains_the_same(small_digits):
    """In one epoch: after small_digits of unknown size, Keras counts one step too many."""
    x, y = small_digits
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


def test_data_of_unknown_size_takes_the_full_eps_and_says_so(small_digits, caplog):
    batches = tf.data.Dataset.from_tensor_slices(small_digits).batch(32)
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


def test_uint8_images(small_digits):
    x, y = small_digits
    models = [keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), mlp()]) for _ in range(2)]
    for model, images in zip(models, ((x * 255).round().astype("uint8"), (x * 255).round())):
        fit(robust(model, input_range=(0, 255), loss=SPARSE), images, y)
    assert_same(*models)


@pytest.mark.parametrize("accumulated", [None, 2])
def test_stopped_and_restored_equals_unbroken(accumulated, small_digits, tmp_path):
    def new():
        model = mlp()
        return model, robust(model, optimizer=keras.optimizers.Adam(gradient_accumulation_steps=accumulated))

    whole, wrapper = new()
    fit(wrapper, *small_digits, epochs=4)
    _, broken = new()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, *small_digits, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Stop()])
    model, resumed = new()
    fit(resumed, *small_digits, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_same(model, whole)


@pytest.mark.parametrize(
    "fixed, eps",
    [("nfgsm(eps_schedule=fixed, noise=1)", 0.1), ("pgd(eps_schedule=fixed, norm=linf+l1, steps=1)", (0.1, 2.0))],
)
def test_saved_and_loaded_it_goes_on(fixed, eps, small_digits, tmp_path):
    x, y = small_digits
    model, whole = mlp(), mlp()
    wrapper = robust(model, fixed, eps)
    fit(wrapper, x, y)
    wrapper.save(tmp_path / "robust.keras")
    loaded = keras.models.load_model(tmp_path / "robust.keras")
    assert (loaded.defense, loaded.eps, loaded.input_range) == (wrapper.defense, eps, (0.0, 1.0))
    fit(loaded, x, y)
    unbroken = robust(whole, fixed, eps)
    fit(unbroken, x, y)
    fit(unbroken, x, y)
    assert_same(loaded.model, whole)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"tfadv" not in file.read("config.json")


def test_mixed_float16_scales_the_loss(small_digits):
    """The gradient of a confident prediction is 0 in float16; the scaled one is not."""
    model = mlp(None, dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e6), initial_scale=2.0**20)
    before = model.get_weights()
    tiny = np.full(32, 1e-9, "float32")  # times the loss: float16 ends at 6e-8
    fit(
        robust(model, "pgd(steps=2)", optimizer=optimizer),
        small_digits[0][:32],
        small_digits[1][:32],
        sample_weight=tiny,
    )
    logits = [np.abs(a - b).max() for a, b in zip(before, model.get_weights())]
    assert int(optimizer.inner_optimizer.iterations) == 1 and min(logits) > 0


def test_clipping_averages_and_frozen_layers_are_those_of_keras(small_digits):
    """Weights that the optimizer averages, and gradients that it clips, are as in plain Keras at eps 0."""
    settings = {"global_clipnorm": 0.01, "use_ema": True, "ema_momentum": 0.9}
    models = [frozen(), frozen()]
    fit(robust(models[0], "nfgsm", 0.0, keras.optimizers.SGD(0.5, **settings)), *small_digits, epochs=2)
    models[1].compile(keras.optimizers.SGD(0.5, **settings), loss=SPARSE, jit_compile=False)
    models[1].fit(*small_digits, epochs=2, verbose=0, batch_size=32, shuffle=False)
    assert_same(*models)


def test_losses_and_metrics_by_the_names_of_the_outputs(small_digits):
    image = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(10, activation="softmax", name="digit")(keras.layers.Flatten()(image))
    model = keras.Model(image, outputs)
    history = fit(robust(model, loss={"digit": SPARSE}, metrics={"digit": ["accuracy"]}), *small_digits)
    assert {"loss", "accuracy"} <= set(history)


def test_labels_that_are_not_one_array_are_named(small_digits):
    x, y = small_digits
    for labels, named in (({"digit": y}, "has digit by name"), ((y, y), "has 2 arrays"), (None, "has 0 arrays")):
        with pytest.raises(ValueError, match=f"trained on one array of labels, and the data {named}: map the data to"):
            fit(robust(mlp()), x, labels)


def test_callbacks_of_every_form(small_digits):
    """A callback alone, in sixth place, and a list of Keras that stays as it was."""
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model = mlp()
    wrapper = robust(model)
    wrapper.fit(*small_digits, 32, 1, 0, note)
    given = keras.callbacks.CallbackList([note], model=wrapper, add_history=True, epochs=1, verbose=0, steps=10)
    wrapper.fit(*small_digits, verbose=0, callbacks=given)
    assert seen == [0, 0] and len(given.callbacks) == 2 and int(wrapper._total) == 0
    with pytest.raises(KeyboardInterrupt):
        fit(wrapper, *small_digits, epochs=3, callbacks=Stop())
    assert int(wrapper._total) == 0  # train_on_batch takes the full eps again


def test_a_library_may_wrap_fit_to_add_a_callback(small_digits, monkeypatch):
    """As mlflow.keras.autolog does."""
    seen, plain = [], keras.Model.fit

    def wrapped(self, *args, **kwargs):
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))
        return plain(self, *args, **kwargs | {"callbacks": [*kwargs.get("callbacks", ()), note]})

    monkeypatch.setattr(keras.Model, "fit", wrapped)
    accuracy = RobustAccuracy(*small_digits, attack="fgsm", eps=0.1)
    fit(robust(mlp()), *small_digits, epochs=2, callbacks=[accuracy])
    assert [("val_robust_accuracy" in logs) for logs in seen] == [True, True]


def test_one_hot_labels_of_unknown_width(small_digits):
    x, y = small_digits
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


def test_attacks_and_evaluations_take_it(small_digits):
    x, y = (part[:50] for part in small_digits)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), mlp()])
    wrapper = robust(model, input_range=(0, 255), loss=SPARSE)
    fit(wrapper, small_digits[0] * 255, small_digits[1], epochs=3)
    expected = evaluate(classifier(model, (0, 255), quiet=True), x, y, "pgd(steps=2)", 0.05)
    found = evaluate(wrapper, x, y, "pgd(steps=2)", 0.05)
    np.testing.assert_array_equal(found.robust, expected.robust)
    assert found.clean_accuracy > 0.5 and classifier(wrapper) is wrapper.classifier
    np.testing.assert_array_equal(*(PGD(steps=2)(model, x, y, 0.05) for model in (wrapper, wrapper.classifier)))
    assert wrapper.input_shape == (None, 8, 8, 1) and wrapper.output_shape == (None, 10)


def test_an_unregistered_defense_is_not_saved(tmp_path):
    class Own(NFGSM):
        pass

    with pytest.raises(ValueError, match="own is not registered in DEFENSES: save robust.model instead"):
        AdversarialModel(mlp(), Own()).save(tmp_path / "robust.keras")
