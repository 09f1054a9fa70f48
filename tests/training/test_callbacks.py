"""The callbacks for Keras' `fit`."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfadv
from tfadv.defenses.pgd import PGD
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import evaluate
from tfadv.models.logits import classifier
from tfadv.training import callbacks
from tfadv.training.adversarial_model import AdversarialModel
from tfadv.training.averaging import UPDATE_EVERY
from tfadv.training.callbacks import CatastrophicOverfitting, RobustAccuracy

ROBUST = "val_robust_accuracy"


@pytest.fixture(scope="module")
def data(digits):
    """(x from 0 to 255 (1200, 16, 16, 1), y)."""
    return digits.images[:1200, ::2, ::2].astype("float32"), digits.labels[:1200]


def mlp():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(32, activation="relu")]
    return keras.Sequential([keras.Input((16, 16, 1)), *layers, keras.layers.Dense(10, activation="softmax")])


def compiled(model, rate=0.003):
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", jit_compile=False)
    return model


def fit(model, data, given, epochs=3):
    x, y = data
    return model.fit(x[:1000], y[:1000], batch_size=50, epochs=epochs, verbose=0, callbacks=given).history


def hardened(data, defense, eps, rate=0.003):
    """(a trained model, its `AdversarialModel`)."""
    model = compiled(mlp())
    fit(model, data, [], epochs=4)
    return model, compiled(AdversarialModel(model, defense, eps, (0, 255)), rate)


def measured(model, data):
    x, y = data
    return evaluate(classifier(model, (0, 255), quiet=True), x[1000:], y[1000:], "pgd(steps=10)", 0.05).robust_accuracy


def callback(data, **options):
    return RobustAccuracy(data[0][1000:], data[1][1000:], **{"eps": 0.05, "input_range": (0, 255)} | options)


def test_it_measures_any_model_for_the_callbacks_after_it(data, tmp_path):
    model = compiled(mlp())
    before, robust = measured(model, data), callback(data)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "{val_robust_accuracy:.6f}.keras", ROBUST, mode="max")
    history = fit(model, data, [robust, best, keras.callbacks.TensorBoard(tmp_path / "logs")])
    curves = EventAccumulator(str(tmp_path / "logs/validation"), size_guidance={"tensors": 0})
    curves.Reload()
    assert [float(tf.make_ndarray(e.tensor_proto)) for e in curves.Tensors("epoch_robust_accuracy")] == pytest.approx(
        history[ROBUST]
    )
    assert len(history[ROBUST]) == 3 and robust.before == before
    assert history[ROBUST][-1] == measured(model, data)
    assert {float(path.stem) for path in tmp_path.glob("*.keras")} == {round(value, 6) for value in history[ROBUST]}


def test_early_stopping_restores_the_most_robust_epoch(data):
    model = compiled(mlp(), 0.01)
    stopping = keras.callbacks.EarlyStopping(ROBUST, mode="max", patience=2, restore_best_weights=True)
    history = fit(model, data, [callback(data), stopping], epochs=12)
    assert len(history[ROBUST]) < 12
    assert measured(model, data) == max(history[ROBUST])


def test_the_range_is_that_of_the_adversarial_model_and_its_accuracy_rises(data):
    model, robust = hardened(data, "nfgsm", 0.05)
    given = callback(data, input_range=None, restore_best_weights=True)
    history = fit(robust, data, [given], epochs=6)
    assert measured(model, data) == given.best == max(history[ROBUST]) > given.before + 0.1
    assert history[ROBUST].index(given.best) + 1 == given.best_epoch


def test_training_that_brings_nothing_leaves_the_weights_and_says_so(data, caplog):
    model, robust = hardened(data, "nfgsm", 0.05, rate=30.0)
    before, weights = measured(model, data), model.get_weights()
    with caplog.at_level("WARNING", logger="tfadv"):
        fit(robust, data, [callback(data, restore_best_weights=True)], epochs=2)
    assert f"no epoch was more robust than the model was before ({before:.1%} of" in caplog.text
    assert "so its weights are unchanged" in caplog.text
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def result(robust, clean=0.9):
    return types.SimpleNamespace(robust=np.float64(robust), clean_accuracy=clean)


def test_a_network_that_guesses_is_not_the_best(data, monkeypatch):
    """It always gives the same answer, whatever the attack, and an undefended model is never right."""
    x, y = data
    model = compiled(mlp())
    model.layers[-1].set_weights([np.zeros((32, 10)), -100.0 * np.arange(10)])  # always 0
    robust = callback(data, restore_best_weights=True)
    robust.set_model(model)
    monkeypatch.setattr(robust, "_measure", lambda: result(0.0))
    robust.on_train_begin()
    monkeypatch.undo()
    logs = {}
    robust.on_epoch_end(0, logs)
    assert logs[ROBUST] == pytest.approx(np.mean(y[1000:] == 0)) and robust.best_epoch == 0


def test_a_collapse_is_undone_and_a_stronger_attack_goes_on(data, monkeypatch, caplog):
    accuracies = iter([0.05, 0.3, 0.5, 0.1, 0.4, 0.45])  # the first before training
    monkeypatch.setattr(RobustAccuracy, "_measure", lambda self: result(next(accuracies)))
    model, kept, steps = mlp(), [], []
    robust = compiled(AdversarialModel(model, "nfgsm", 0.05, (0, 255)))
    keep = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: kept.append(
            (
                model.get_weights(),
                [
                    v.numpy()
                    for v in robust.optimizer.variables
                    if v.path.split("/")[-1] not in ("iteration", "learning_rate")
                ],
            )
        ),
        on_epoch_end=lambda epoch, logs: steps.append(int(robust.optimizer.iterations)),
    )
    with caplog.at_level("WARNING", logger="tfadv"):
        fit(robust, data, [callback(data), CatastrophicOverfitting(), keep], epochs=5)
    assert robust.defense == PGD(steps=2)
    assert (
        "fell from 50.0% to 10.0%" in caplog.text and "of epoch 2 are restored; training continues with" in caplog.text
    )
    for a, b in zip(kept[2][0], kept[3][0]):  # after the second epoch, and before the fourth
        np.testing.assert_array_equal(a, b)
    for a, b in zip(kept[2][1], kept[3][1]):
        np.testing.assert_array_equal(a, b)
    assert steps[-1] == 5 * 20


def test_an_epoch_that_guesses_and_one_before_the_fallback_set_no_bar(data, monkeypatch, caplog):
    measured = [(0, 0.1), (0.6, 0.1), (0.2, 0.9), (0.5, 0.9), (0.1, 0.9), (0.25, 0.9), (0.02, 0.9)]
    results = iter([result(*each) for each in measured])
    monkeypatch.setattr(RobustAccuracy, "_measure", lambda self: next(results))
    robust = compiled(AdversarialModel(mlp(), "nfgsm", 0.05, (0, 255)))
    with caplog.at_level("WARNING", logger="tfadv"):
        fit(robust, data, [callback(data), CatastrophicOverfitting()], epochs=6)
    falls = [record.getMessage() for record in caplog.records if "fell from" in record.getMessage()]
    assert len(falls) == 2
    assert "epoch 4:" in falls[0] and "from 50.0% to 10.0%" in falls[0] and "of epoch 3 are restored" in falls[0]
    assert "epoch 6:" in falls[1] and "from 25.0% to 2.0%" in falls[1] and "of epoch 5 are restored" in falls[1]


def test_wrong_uses_are_named(data):
    model = compiled(mlp())
    with pytest.raises(UserError, match="is for tfadv.AdversarialModel"):
        fit(model, data, [CatastrophicOverfitting()])
    robust = compiled(AdversarialModel(mlp(), input_range=(0, 255)))
    with pytest.raises(UserError, match="put tfadv.RobustAccuracy before it"):
        fit(robust, data, [CatastrophicOverfitting()], epochs=1)
    robust = compiled(AdversarialModel(mlp(), "pgd(norm=l2, steps=1)", 0.4, (0, 255)))
    with pytest.raises(ValueError, match="give eps for pgd.steps=5.: that of the model is for perturbations in l2"):
        fit(robust, data, [callback(data, eps=None, attack="pgd(steps=5)")])
    robust = compiled(AdversarialModel(mlp(), "pgd(norm=l2+l1)", (0.4, 4), (0, 255)))
    with pytest.raises(ValueError, match="give an attack and its eps: .* in l2.l1"):
        fit(robust, data, [callback(data, input_range=None)])
    with pytest.raises(ValueError, match="give eps for pgd.steps=5.: that of the model is for perturbations in l2.l1"):
        fit(robust, data, [callback(data, eps=None, attack="pgd(steps=5)")])
    with pytest.raises(ValueError, match="eps must be one number"):
        RobustAccuracy(*data, eps=[0.1, 0.2])
    assert tfadv.RobustAccuracy is callbacks.RobustAccuracy


@pytest.mark.parametrize("attack", ["spatial(angles=3, shifts=1)", "fog", "corruptions(corruptions=contrast)"])
def test_attacks_without_eps_are_measured(data, attack):
    model, given = compiled(mlp()), callback(data, attack=attack, eps=None)
    history = fit(model, data, [given], epochs=1)
    result = evaluate(classifier(model, (0, 255), quiet=True), data[0][1000:], data[1][1000:], attack)
    assert history[ROBUST] == [float(result.robust.mean())] and 0.1 < history[ROBUST][0] < 1


def test_a_defense_without_eps_needs_one_for_the_attack(data):
    robust = compiled(AdversarialModel(mlp(), "gaussian", input_range=(0, 255)))
    with pytest.raises(ValueError, match="give eps for pgd.*gaussian trains without one"):
        fit(robust, data, [callback(data, eps=None, input_range=None)], epochs=1)


def test_the_attack_is_in_the_norm_of_the_defense(data):
    _, robust = hardened(data, "nfgsm(norm=l2)", 0.8)
    given = callback(data, eps=None, input_range=None)
    history = fit(robust, data, [given], epochs=1)
    expected = evaluate(robust, data[0][1000:], data[1][1000:], "pgd(steps=10, norm=l2)", 0.8).robust_accuracy
    assert history[ROBUST] == [expected] and 0.2 < expected < 0.95


def test_a_model_that_guesses_before_training_undoes_nothing(data):
    """It gives one answer and withstands every attack; an attacked epoch may have a lower accuracy."""
    x, y = data[0], (data[1] == 0).astype(int)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.layers[-1].set_weights([np.zeros((256, 2)), np.array([9.0, 0.0])])
    model.compile(keras.optimizers.Adam(0.001), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    given = RobustAccuracy(x[1000:], y[1000:], eps=0.5, input_range=(0, 255), restore_best_weights=True)
    fit(model, (x, y), [given], epochs=2)
    assert given.before > 0.85 and (model.layers[-1].get_weights()[0] != 0).any()


class Recorded(keras.callbacks.Callback):
    """The weights after each step, and those that a callback at its place in the list sees after an epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_begin(self, logs=None):
        self.start = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.get_weights())


def with_batchnorm():
    model = mlp()
    dense, *rest = model.layers[2:]
    return keras.Sequential(
        [keras.Input((16, 16, 1)), *model.layers[:2], dense, keras.layers.BatchNormalization(), *rest]
    )


@pytest.mark.parametrize("hardens", [False, True])
def test_the_average_of_all_weights_is_validated_shown_and_kept(data, hardens):
    model = with_batchnorm()
    trained = compiled(AdversarialModel(model, "nfgsm", 0.05, (0, 255)) if hardens else model)
    before, after = Recorded(), Recorded()
    average = tfadv.WeightAverage(0.9)
    x, y = data
    history = trained.fit(
        *(x[:1000], y[:1000]),
        batch_size=50,
        epochs=3,
        verbose=0,
        validation_data=(x[1000:], y[1000:]),
        callbacks=[before, average, after],
    ).history
    expected = [w.astype("float64") for w in before.start]
    for step, weights in enumerate(before.steps, start=1):
        if step % UPDATE_EVERY == 0:
            decay = min(0.9, (1 + step) / (10 + step)) ** UPDATE_EVERY
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, weights)]
        if step % 20 == 0:
            for a, b in zip(expected, after.epochs[step // 20 - 1], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
            for a, b in zip(weights, before.epochs[step // 20 - 1], strict=True):
                np.testing.assert_array_equal(a, b)
    for a, b in zip(model.get_weights(), after.epochs[-1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert trained.evaluate(x[1000:], y[1000:], verbose=0) == pytest.approx(history["val_loss"][-1])


def test_a_fit_of_few_steps_is_averaged_to_its_last_weights(data):
    x, y = data
    model, seen = compiled(mlp()), Recorded()
    model.fit(x[:36], y[:36], batch_size=9, verbose=0, callbacks=[seen, tfadv.WeightAverage()])
    for first, last, kept in zip(seen.start, seen.steps[-1], model.get_weights(), strict=True):
        share = (5 / 14) ** 4
        np.testing.assert_allclose(kept, share * first + (1 - share) * last, rtol=1e-4, atol=1e-6)


def test_weights_that_another_callback_sets_stay_and_start_a_new_average(data):
    class Zeros(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])

    model, seen = compiled(mlp(), rate=0.0), Recorded()
    fit(model, data, [tfadv.WeightAverage(), Zeros(), seen], epochs=2)
    assert not any(w.any() for w in seen.steps[-1])
    assert not any(w.any() for w in model.get_weights())


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        tfadv.WeightAverage(decay)
