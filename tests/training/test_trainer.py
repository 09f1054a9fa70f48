import collections
import dataclasses
import functools
import json
import math
import os
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfadv import models
from tfadv.datasets.batches import Samples
from tfadv.defenses.base import Defense
from tfadv.defenses.nfgsm import NFGSM
from tfadv.defenses.pgd import PGD
from tfadv.errors import UserError
from tfadv.runtime import compilation, signals
from tfadv.training import Diverged, Trainer, TrainingLog, TrainingSettings
from tfadv.training import trainer as trainer_module
from tfadv.training.divergence import DivergenceCheck
from tfadv.training.schedule import warmup_cosine


@pytest.fixture(scope="module")
def halves(digits):
    """(training, validation) of 400 and 100 digits of 16x16 pixels."""
    images = digits.images[:500, ::2, ::2]
    rows, held = train_test_split(np.arange(500), test_size=100, random_state=0, stratify=digits.labels[:500])
    return Samples(images[rows], digits.labels[rows]), Samples(images[held], digits.labels[held])


# Tracing takes longer than training here, and a used trainer does what a new one does (tested below), so tests that ask
# for the same settings get the same trainers, one after the other.
_free = collections.defaultdict(list)
_lent = []


def trainer(**settings):
    """A trainer of a model with its initial weights."""
    key = *sorted((name, repr(value)) for name, value in settings.items()), dataclasses.astuple(compilation._choice)
    if not _free[key]:
        _free[key].append(new_trainer(**settings))
    t, variables, start = _free[key].pop()
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    _lent.append((key, (t, variables, start)))
    return t


def new_trainer(**settings):
    """(trainer, the variables of its model and optimizer, their values)."""
    keras.utils.set_random_seed(0)
    model = models.build("resnet_tiny", (16, 16, 1), 10)
    t = Trainer(model, **{"weight_decay": 0.0, "defense": Defense()} | settings)
    variables = [*model.weights, *t._optimizer.variables]
    return t, variables, [variable.numpy() for variable in variables]


@pytest.fixture(autouse=True)
def returned():
    yield
    for key, lent in _lent:
        _free[key].append(lent)
    _lent.clear()


def fit(t, halves, log_dir=None, *, checkpoints=None, **changes):
    settings = TrainingSettings(**dict(epochs=2, batch_size=64, learning_rate=0.1, patience=5) | changes)
    return t.fit(*halves, settings, log=TrainingLog(log_dir), checkpoints=checkpoints)


def test_number_of_optimizer_steps(halves, tmp_path):
    assert fit(trainer(), halves, tmp_path, epochs=3)["steps"] == 3 * (400 // 64)


def test_training_learns_and_validation_counts_are_exact(halves, tmp_path):
    t = trainer()
    record = fit(t, halves, tmp_path, epochs=10)
    logits = t.model.predict(halves[1].images.astype("float32") / 255, verbose=0)
    accuracy = (logits.argmax(1) == halves[1].labels).mean()
    assert accuracy > 0.6
    # The model has the best weights again, and the figure for them equals an independent count.
    assert record["history"]["val_accuracy"][record["best_epoch"] - 1] == pytest.approx(accuracy, abs=1e-6)
    assert record["best_epoch"] == 1 + int(np.argmax(record["history"]["val_accuracy"]))


def test_mixed_precision_learns_as_well_and_leaves_a_float32_model(halves, tmp_path):
    t = trainer(precision="mixed_bfloat16")
    fit(t, halves, tmp_path, epochs=10)
    assert {layer.compute_dtype for layer in t.model.layers} == {"float32"}
    logits = t.model.predict(halves[1].images.astype("float32") / 255, verbose=0)
    assert (logits.argmax(1) == halves[1].labels).mean() > 0.6


def test_a_used_trainer_gives_the_weights_of_a_new_one(halves, tmp_path):
    first, used = new_trainer()[0], trainer()
    start = used.model.get_weights()
    fit(used, halves, tmp_path, learning_rate=0.3, seed=9)
    used.model.set_weights(start)
    fit(used, halves, tmp_path, augmentations=("noise", "shift"))
    fit(first, halves, tmp_path, augmentations=("noise", "shift"))
    for a, b in zip(first.model.get_weights(), used.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_counts_patience(halves, tmp_path):
    t = trainer()
    t.model.trainable = False  # then no weight and no statistic moves, and validation never improves
    t = Trainer(t.model, weight_decay=0.0, defense=Defense())
    record = fit(t, halves, tmp_path, epochs=9, patience=2, learning_rate=1e-9)
    assert len(record["history"]["loss"]) == 3 and record["best_epoch"] == 1
    t.model.trainable = True  # it is lent to other tests


def test_the_model_ends_with_the_best_weights(halves, tmp_path):
    t = trainer()
    scrambled = Samples(halves[1].images, (halves[1].labels + 1) % 10)  # the better it learns, the lower this accuracy
    record = fit(t, (halves[0], scrambled), epochs=8, patience=4)
    accuracies = record["history"]["val_accuracy"]
    assert accuracies[-1] < max(accuracies) - 0.03
    logits = t.model.predict(scrambled.images.astype("float32") / 255, verbose=0)
    assert (logits.argmax(1) == scrambled.labels).mean() == pytest.approx(max(accuracies), abs=1e-6)


def test_non_finite_loss_stops_and_names_the_steps(halves, tmp_path):
    with pytest.raises(Diverged, match=r"no longer finite.*step from \d+ to \d+.*learning_rate"):
        fit(trainer(), halves, tmp_path, learning_rate=1e30, epochs=5)


def scalars(folder):
    """Tag → [(step, value)] of a run."""
    events = EventAccumulator(str(folder)).Reload()
    tensors = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    return {
        tag: [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in own]
        for tag, own in tensors.items()
        if tag != "augmented_images"
    }


def test_tensorboard_has_the_curves_of_the_history(halves, tmp_path):
    log = TrainingLog(tmp_path)
    settings = TrainingSettings(epochs=2, batch_size=64, learning_rate=0.05, patience=2, eps=0.02)
    history = trainer(defense=NFGSM()).fit(*halves, settings, log=log)["history"]
    train, validation = scalars(tmp_path / "train"), scalars(tmp_path / "validation")
    assert set(train) == {"loss", "accuracy", "learning_rate", "images_per_second"}
    assert set(validation) == {"loss", "accuracy", "robust_accuracy"}
    for own, prefix in ((train, ""), (validation, "val_")):
        for tag in set(own) - {"learning_rate", "images_per_second"}:
            assert [step for step, _ in own[tag]] == [1, 2]
            assert [value for _, value in own[tag]] == pytest.approx(history[prefix + tag], rel=1e-6)
    assert train["learning_rate"][0][1] > train["learning_rate"][1][1] >= 0


def test_the_first_step_which_may_compile_does_not_count_in_the_rate(halves, tmp_path, monkeypatch, caplog):
    seconds = [0.0]
    monkeypatch.setattr("tfadv.training.trainer.time", types.SimpleNamespace(monotonic=lambda: seconds[0]))
    t = trainer()
    step = t.train_step

    def timed(*arguments):
        seconds[0] += 100 if not seconds[0] else 0.5
        return step(*arguments)

    monkeypatch.setattr(t, "train_step", timed)
    with caplog.at_level("INFO", logger="tfadv"):
        fit(t, halves, tmp_path, epochs=2)
    rates = [rate for _, rate in scalars(tmp_path / "train")["images_per_second"]]
    assert rates == pytest.approx([64 / 0.5] * 2)
    assert "128 images/s  3 s left" in caplog.text  # 6 steps of 64 images


def test_tensorboard_files_are_written_beside_what_is_there(halves, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("mine")
    for number in (1, 2):
        fit(trainer(), halves, tmp_path, epochs=1)
        assert len(list((tmp_path / "validation").glob("events*"))) == number
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"


def test_tensorboard_shows_augmented_images(halves, tmp_path):
    fit(trainer(), halves, tmp_path, augmentations=("rotation", "noise"))
    (event,) = EventAccumulator(str(tmp_path / "train")).Reload().Tensors("augmented_images")
    image = tf.image.decode_png(event.tensor_proto.string_val[2]).numpy()
    assert image.shape == (5 * 16, 8 * 16, 1)
    rows = image.reshape(5, 16, 128)
    assert all((rows[0] != rows[i]).any() for i in range(1, 5))


def test_warmup_and_cosine():
    rate = functools.partial(warmup_cosine, peak=0.2, total=100)
    assert rate(0) == pytest.approx(0.02) and rate(9) == rate(10) == pytest.approx(0.2)
    assert rate(55) == pytest.approx(0.1)
    assert rate(99) == pytest.approx(0.1 * (1 + math.cos(math.pi * 89 / 90)))


def test_the_learning_rate_of_every_step(halves, tmp_path):
    t, rates = trainer(), []
    step = t.train_step

    def recorded(*batch):
        rates.append(float(t._optimizer.learning_rate))
        return step(*batch)

    t.train_step = recorded
    fit(t, halves, tmp_path, epochs=2)
    assert rates == pytest.approx([warmup_cosine(i, peak=0.1, total=12) for i in range(12)])


def test_an_exploding_loss_is_noticed_in_the_steps_where_it_happens():
    check = DivergenceCheck(10, step=0)
    check.check(20, 20 * 64 * 3.0, 20 * 64)
    with pytest.raises(Diverged, match="from 21 to 40.*smaller learning_rate"):
        check.check(40, 20 * 64 * 3.0 + 20 * 64 * 300.0, 40 * 64)
    check = DivergenceCheck(10, step=0)
    check.check(20, 20 * 64 * 3.0, 20 * 64)
    check.new_epoch()
    check.check(40, 20 * 64 * 200.0, 20 * 64)  # below a hundred times the loss of guessing


def test_weights_that_are_not_finite_are_noticed_where_the_loss_is():
    """A ReLU turns NaN into 0."""
    check = DivergenceCheck(10)
    check.check(20, 20 * 64 * 2.3, 20 * 64)
    with pytest.raises(Diverged, match="weights are no longer finite, since a step from 21 to 40"):
        check.check(40, 40 * 64 * 2.3, 40 * 64, weights_finite=False)


class MemoryCheckpoints:
    """Checkpoints in memory."""

    def __init__(self):
        self.saved = []

    def load(self):
        return self.saved[-1][1:] if self.saved else None

    def save(self, step, state, arrays):
        self.saved.append((step, json.loads(json.dumps(state)), arrays))


@pytest.fixture
def clock(monkeypatch):
    """Each training step of a trainer given to this function takes a quarter of the time between checkpoints."""
    seconds = [0.0]
    monkeypatch.setattr(trainer_module, "time", types.SimpleNamespace(monotonic=lambda: seconds[0]))

    def watch(t):
        step = t.train_step

        def timed(*arguments):
            seconds[0] += trainer_module.CHECKPOINT_SECONDS / 4 + 1e-3
            return step(*arguments)

        monkeypatch.setattr(t, "train_step", timed)
        return t

    return watch


def test_checkpoints_are_written_each_minute_and_after_each_epoch(halves, tmp_path, clock):
    kept = MemoryCheckpoints()
    fit(clock(trainer()), halves, tmp_path, epochs=3, checkpoints=kept)  # 6 steps an epoch
    assert [step for step, _, _ in kept.saved] == [4, 6, 10, 12, 16]  # the last epoch's end is the model itself


def test_a_resumed_run_knows_the_best_epoch_and_its_patience(halves, tmp_path):
    scrambled = halves[0], Samples(halves[1].images, (halves[1].labels + 1) % 10)  # the better it learns, the worse
    kept, settings = MemoryCheckpoints(), dict(epochs=12, patience=3)
    record = fit(trainer(), scrambled, tmp_path, checkpoints=kept, **settings)
    epochs = len(record["history"]["loss"])
    assert record["best_epoch"] == epochs - 3 < 9 and len(kept.saved) == epochs - 1
    for checkpoint in kept.saved[-2:]:
        before, resumed = MemoryCheckpoints(), trainer()
        before.saved = [checkpoint]
        assert fit(resumed, scrambled, tmp_path, checkpoints=before, **settings) == record


def forget(t):
    """Makes a trainer one that knows nothing of its earlier run; a new one would compile its steps again."""
    for variable in (*t.model.weights, *t._optimizer.variables):
        variable.assign(np.ones(variable.shape))


def test_a_run_resumed_from_any_checkpoint_equals_an_uninterrupted_one(halves, tmp_path, clock):
    kept, t = MemoryCheckpoints(), clock(trainer())
    settings = dict(epochs=3, augmentations=("shift", "noise"))
    record = fit(t, halves, tmp_path, checkpoints=kept, **settings)
    expected = t.model.get_weights()
    for checkpoint in (kept.saved[0], kept.saved[1], kept.saved[4]):  # in an epoch, at the end of one, in the last
        before = MemoryCheckpoints()
        before.saved = [checkpoint]
        forget(t)
        assert fit(t, halves, tmp_path, checkpoints=before, **settings) == record
        for a, b in zip(expected, t.model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_weights_that_are_not_finite_are_not_saved_and_the_last_good_ones_restored(halves, tmp_path, clock):
    kept, t = MemoryCheckpoints(), clock(trainer())
    step, count = t.train_step, []

    def with_nan_in_the_ninth(*batch):
        count.append(1)
        if len(count) == 9:
            t.model.weights[0].assign(t.model.weights[0] * np.nan)
        return step(*batch)

    t.train_step = with_nan_in_the_ninth
    with pytest.raises(Diverged, match="from 7 to 10"):
        fit(t, halves, tmp_path, epochs=4, checkpoints=kept)
    assert [step for step, _, _ in kept.saved] == [4, 6]
    good = kept.saved[-1][2]
    for i, value in enumerate(t._network.get_weights()):
        np.testing.assert_array_equal(value, good[f"weight{i}"])


@pytest.fixture
def signal_handlers():
    signals.install()
    yield
    signals.uninstall()


def test_a_signal_saves_the_present_step(halves, tmp_path, signal_handlers):
    kept, t = MemoryCheckpoints(), trainer()
    step, count = t.train_step, []

    def with_a_signal_in_the_eighth(*batch):
        count.append(1)
        if len(count) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*batch)

    t.train_step = with_a_signal_in_the_eighth
    with pytest.raises(signals.Stopped):
        fit(t, halves, tmp_path, epochs=4, checkpoints=kept)
    assert [step for step, _, _ in kept.saved] == [6, 8] and len(count) == 8


def test_the_defense_decides_the_loss(halves):
    class Doubled(Defense):
        def loss(self, model, x, y, adversarial):
            losses, logits = super().loss(model, x, y, adversarial)
            return 2 * losses, logits

    plain, twice = (fit(trainer(defense=d), halves, epochs=1, learning_rate=1e-9) for d in (Defense(), Doubled()))
    assert twice["history"]["loss"][0] == pytest.approx(2 * plain["history"]["loss"][0], rel=1e-3)
    assert twice["history"]["val_loss"] == pytest.approx(plain["history"]["val_loss"], rel=1e-3)  # of the cross-entropy


def test_a_loss_may_attack_the_model_in_training():
    """FGSM on the very model that is trained: what adversarial training of a plugin needs."""

    class Adversarial(Defense):
        def loss(self, model, x, y, adversarial):
            with tf.GradientTape() as tape:
                tape.watch(x)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=False))
            x = tf.clip_by_value(x + 0.1 * tf.sign(tape.gradient(losses, x)), 0, 1)
            return super().loss(model, x, y, adversarial)

    t = trainer(defense=Adversarial())
    x, y = tf.random.stateless_uniform((8, 16, 16, 1), (0, 0)), tf.constant(np.arange(8) % 10, tf.int64)
    plain = Defense().loss(t.model, x, y, None)[0].numpy().sum()
    assert t.train_step(x, y)[0].numpy() > plain * 1.001


@pytest.mark.long
def test_without_optimized_clones_training_is_the_same(halves):
    records = []
    for accelerate in ("auto", "off"):
        compilation.configure(accelerate=accelerate)
        try:
            records.append(fit(trainer(), halves, epochs=1)["history"])
        finally:
            compilation.configure()
    for key, value in records[0].items():
        assert records[1][key] == pytest.approx(value, rel=0.02), key


def test_mixed_precision_needs_optimized_clones():
    compilation.configure(accelerate="off")
    try:
        with pytest.raises(UserError, match="--precision=mixed_bfloat16 needs optimized clones.*TFADV_ACCELERATE"):
            trainer(precision="mixed_bfloat16")
    finally:
        compilation.configure()


ROBUST = {
    "awp": PGD(steps=1, awp=0.01, eps_schedule="uniform"),
    "averaged": NFGSM(share=0.5, eps_schedule="uniform"),
    "norms": PGD(steps=1, norm="linf+l1", eps=(0.1, 4.0), eps_schedule="uniform"),
}


@pytest.mark.parametrize("which", ROBUST)
def test_adversarial_training_resumes_to_the_same_bits(halves, which, clock):
    kept, t = MemoryCheckpoints(), clock(trainer(defense=ROBUST[which]))
    settings = dict(steps=20, eps=0.1, average=0.9 if which == "averaged" else 0.0)
    record, before = fit(t, halves, checkpoints=kept, **settings), MemoryCheckpoints()
    assert record["steps"] == 20 and len(record["history"]["loss"]) == 4
    # 100 validation images are attacked, in each norm, before training and after each of 4 epochs.
    assert record["gradients"] == 20 * 64 * ROBUST[which].cost + ROBUST[which].validation_cost * 100 * (4 + 1)
    before.saved, expected = [entry for entry in kept.saved if entry[0] == 16], t.model.get_weights()
    forget(t)
    assert len(before.saved) == 1 and fit(t, halves, checkpoints=before, **settings) == record
    for a, b in zip(expected, t.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_that_guesses_and_one_before_the_fallback_set_no_bar(halves, monkeypatch, caplog):
    measured = [(0.1, 0.1), (0.1, 0.6), (0.9, 0.2), (0.9, 0.5), (0.9, 0.1), (0.9, 0.25), (0.9, 0.25)]  # the start first
    t = trainer(defense=NFGSM())

    def train(first, checkpoints):
        results = iter(measured[first:])
        monkeypatch.setattr(
            t,
            "_validate",
            lambda *_: dict(zip(("val_accuracy", trainer_module.ROBUST), next(results)), val_loss=1.0),
        )
        caplog.clear()
        with caplog.at_level("WARNING", logger="tfadv"):
            record = fit(t, halves, epochs=6, eps=0.1, checkpoints=checkpoints)
        return record, t.model.get_weights(), [each.getMessage() for each in caplog.records]

    kept, before = MemoryCheckpoints(), MemoryCheckpoints()
    record, expected, (warning,) = train(0, kept)
    assert "epoch 4: robust validation accuracy fell from 50.0% to 10.0%" in warning
    assert "weights of epoch 3 are restored; training continues with pgd(steps=2)" in warning
    assert record["collapsed_epoch"] == 4 and record["best_epoch"] == 3
    before.saved = [kept.saved[3]]  # after the epoch that collapsed
    forget(t)
    resumed, weights, warnings = train(5, before)
    assert resumed == record and not warnings
    for a, b in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_number_of_steps_takes_all_of_them_and_no_more(halves):
    record = fit(trainer(), halves, steps=15, patience=1, epochs=1)
    assert record["steps"] == 15 and len(record["history"]["loss"]) == 3  # 6 steps per epoch, the last epoch has 3


def test_eps_0_equals_plain_training_to_the_bit(halves):
    plain, ours = trainer(), trainer(defense=NFGSM())
    for t in (plain, ours):
        fit(t, halves, epochs=1)
    for a, b in zip(plain.model.get_weights(), ours.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_averaged_weights_are_validated_and_kept(halves):
    t = trainer()
    record = fit(t, halves, epochs=6, average=0.9)
    logits = t.model.predict(halves[1].images.astype("float32") / 255, verbose=0)
    accuracy = (logits.argmax(1) == halves[1].labels).mean()
    assert accuracy == pytest.approx(max(record["history"]["val_accuracy"]), abs=1e-6)


def test_a_short_training_forgets_the_weights_that_it_began_with(halves):
    """Five steps, fewer than are between two updates: the average moves by 1 - (6 / 15)⁵ of the way."""
    plain, averaged = trainer(), trainer()
    start = averaged.model.get_weights()
    fit(plain, halves, epochs=1, steps=5)
    fit(averaged, halves, epochs=1, steps=5, average=0.9999)
    for a, b, c in zip(start, plain.model.get_weights(), averaged.model.get_weights(), strict=True):
        np.testing.assert_allclose(c, a + (1 - 0.4**5) * (b - a), atol=1e-5)


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match="did you mean 'ramp'"):
        NFGSM(eps_schedule="ramps")
    with pytest.raises(ValueError, match="average must be"):
        TrainingSettings(epochs=1, batch_size=1, learning_rate=0.1, patience=1, average=1.0)


def test_the_eps_of_the_steps(halves, monkeypatch):
    """The first and the last one; the defense's own eps goes before that of the run."""
    t, sums = trainer(defense=NFGSM()), tf.constant([64.0, 32.0, 64.0], tf.float64)
    for schedule, sizes in (("ramp", (0.0, 0.2)), ("fixed", (0.2, 0.2)), ("uniform", (0.2, 0.2))):
        seen = []

        def recorded(x, y, eps, seed, uniform, seen=seen):
            seen.append((eps, uniform))
            return sums

        defense = NFGSM(eps=0.2, eps_schedule=schedule)
        monkeypatch.setattr(t, "_defense", defense)
        monkeypatch.setattr(t, "train_step", recorded)
        fit(t, halves, epochs=2, eps=0.1)
        assert (seen[0][0], seen[-1][0]) == pytest.approx(sizes)
        assert {uniform for _, uniform in seen} == {schedule == "uniform"}
