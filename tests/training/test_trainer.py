import functools
import json
import math
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.model_selection import train_test_split

from tfadv import models, stopping
from tfadv.datasets.batches import Samples
from tfadv.training import Diverged, Trainer
from tfadv.training.divergence import Guard
from tfadv.training.schedule import warmup_cosine


@pytest.fixture(scope="module")
def halves(digits):
    """(training, validation) of 400 and 100 digits at 8x8... padded to 16 by repetition of pixels."""
    images = digits.images[:500, ::2, ::2]
    rows, held = train_test_split(np.arange(500), test_size=100, random_state=0, stratify=digits.labels[:500])
    return Samples(images[rows], digits.labels[rows]), Samples(images[held], digits.labels[held])


def trainer(**settings):
    keras.utils.set_random_seed(0)
    return Trainer(models.build("resnet_tiny", (16, 16, 1), 10), **{"weight_decay": 0.0} | settings)


def fit(t, halves, tmp_path, **changes):
    settings = dict(epochs=2, batch_size=64, learning_rate=0.1, patience=5, seed=0, log_dir=tmp_path) | changes
    return t.fit(*halves, **settings)


def test_optimizer_steps_are_epochs_times_batches(halves, tmp_path):
    assert fit(trainer(), halves, tmp_path, epochs=3)["steps"] == 3 * (400 // 64)


def test_it_learns_and_validation_counts_are_exact(halves, tmp_path):
    t = trainer()
    record = fit(t, halves, tmp_path, epochs=10)
    logits = t.model.predict(halves[1].images.astype("float32") / 255, verbose=0)
    accuracy = (logits.argmax(1) == halves[1].labels).mean()
    assert accuracy > 0.6
    # The best weights are back, and Keras' figure for them equals a count by another path.
    assert record["history"]["val_accuracy"][record["best_epoch"] - 1] == pytest.approx(accuracy, abs=1e-6)
    assert record["best_epoch"] == 1 + int(np.argmax(record["history"]["val_accuracy"]))


def test_mixed_precision_learns_as_well_and_leaves_a_float32_model(halves, tmp_path):
    t = trainer(precision="mixed_bfloat16")
    fit(t, halves, tmp_path, epochs=10)
    assert {layer.compute_dtype for layer in t.model.layers} == {"float32"}
    logits = t.model.predict(halves[1].images.astype("float32") / 255, verbose=0)
    assert (logits.argmax(1) == halves[1].labels).mean() > 0.6


def test_same_seed_same_weights_also_on_a_used_trainer(halves, tmp_path):
    first, used = trainer(), trainer()
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
    t = Trainer(t.model, weight_decay=0.0)
    record = fit(t, halves, tmp_path, epochs=9, patience=2, learning_rate=1e-9)
    assert len(record["history"]["loss"]) == 3 and record["best_epoch"] == 1


def test_the_best_weights_are_left_and_not_the_last(halves, tmp_path):
    t = trainer()
    scrambled = Samples(halves[1].images, (halves[1].labels + 1) % 10)  # the better it learns, the worse it looks
    record = t.fit(
        halves[0], scrambled, epochs=8, batch_size=64, learning_rate=0.1, patience=4, seed=0, log_dir=tmp_path
    )
    accuracies = record["history"]["val_accuracy"]
    assert accuracies[-1] < max(accuracies) - 0.03
    logits = t.model.predict(scrambled.images.astype("float32") / 255, verbose=0)
    assert (logits.argmax(1) == scrambled.labels).mean() == pytest.approx(max(accuracies), abs=1e-6)


def test_non_finite_loss_stops_and_names_the_steps(halves, tmp_path):
    with pytest.raises(Diverged, match=r"not finite|no longer finite.*step from \d+ to \d+.*--learning_rate"):
        fit(trainer(), halves, tmp_path, learning_rate=1e30, epochs=5)


def test_tensorboard_curves_are_written(halves, tmp_path):
    fit(trainer(), halves, tmp_path)
    assert list((tmp_path / "train").glob("events*")) and list((tmp_path / "validation").glob("events*"))


def test_augmented_images_are_shown_in_tensorboard(halves, tmp_path):
    fit(trainer(), halves, tmp_path, augmentations=("rotation", "noise"))
    images = [
        tf.image.decode_png(value.tensor.string_val[2]).numpy()
        for path in map(str, (tmp_path / "train").glob("events*"))
        for event in tf.compat.v1.train.summary_iterator(path)
        for value in event.summary.value
        if value.tag == "augmentation/sheet"
    ]
    assert len(images) == 1 and images[0].shape == (5 * 16, 8 * 16, 1)
    rows = images[0].reshape(5, 16, 128)
    assert all((rows[0] != rows[i]).any() for i in range(1, 5))


def test_warm_up_and_cosine():
    rate = functools.partial(warmup_cosine, peak=0.2, total=100)
    assert rate(0) == pytest.approx(0.02) and rate(9) == rate(10) == pytest.approx(0.2)
    assert rate(55) == pytest.approx(0.1)
    assert rate(99) == pytest.approx(0.1 * (1 + math.cos(math.pi * 89 / 90)))


def test_the_rate_of_every_step_is_the_schedules(halves, tmp_path):
    t, rates = trainer(), []
    step = t.train_step

    def watched(*batch):
        rates.append(float(t._optimizer.learning_rate))
        return step(*batch)

    t.train_step = watched
    fit(t, halves, tmp_path, epochs=2)
    assert rates == pytest.approx([warmup_cosine(i, peak=0.1, total=12) for i in range(12)])


def test_an_exploding_loss_is_noticed_in_the_window_where_it_happens():
    watch = Guard(10, step=0)
    watch.look(20, 20 * 64 * 3.0, 20 * 64)
    with pytest.raises(Diverged, match="from 21 to 40.*--learning_rate"):
        watch.look(40, 20 * 64 * 3.0 + 20 * 64 * 300.0, 40 * 64)
    watch = Guard(10, step=0)
    watch.look(20, 20 * 64 * 3.0, 20 * 64)
    watch.new_epoch()
    watch.look(40, 20 * 64 * 200.0, 20 * 64)  # below a hundred times that of guessing


class Kept:
    """Checkpoints in memory."""

    def __init__(self):
        self.made = []

    def load(self):
        return self.made[-1][1:] if self.made else None

    def save(self, step, state, arrays):
        self.made.append((step, json.loads(json.dumps(state)), arrays))


def test_checkpoints_come_after_so_many_steps_and_each_epoch(halves, tmp_path):
    kept = Kept()
    fit(trainer(), halves, tmp_path, epochs=3, checkpoints=kept, checkpoint_steps=4)  # 6 steps an epoch
    assert [step for step, _, _ in kept.made] == [4, 6, 8, 12, 16]  # the last epoch's end is the model itself


def test_going_on_does_not_forget_which_epoch_was_best_and_how_long_ago(halves, tmp_path):
    scrambled = halves[0], Samples(halves[1].images, (halves[1].labels + 1) % 10)  # the better it learns, the worse
    kept, settings = Kept(), dict(epochs=12, patience=3)
    record = fit(trainer(), scrambled, tmp_path, checkpoints=kept, **settings)
    epochs = len(record["history"]["loss"])
    assert record["best_epoch"] == epochs - 3 < 9 and len(kept.made) == epochs - 1
    for made in kept.made[-2:]:
        before, resumed = Kept(), trainer()
        before.made = [made]
        assert fit(resumed, scrambled, tmp_path, checkpoints=before, **settings) == record


@pytest.mark.parametrize("which", [0, 1, 4])
def test_going_on_from_any_checkpoint_gives_the_unbroken_run(halves, tmp_path, which):
    kept, unbroken = Kept(), trainer()
    settings = dict(epochs=3, augmentations=("shift", "noise"), checkpoint_steps=4)
    record = fit(unbroken, halves, tmp_path, checkpoints=kept, **settings)
    resumed = trainer()
    before = Kept()
    before.made = kept.made[which : which + 1]
    assert fit(resumed, halves, tmp_path, checkpoints=before, **settings) == record
    for a, b in zip(unbroken.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ruined_weights_are_never_saved_and_the_last_good_ones_come_back(halves, tmp_path):
    kept, t = Kept(), trainer()
    step, count = t.train_step, []

    def ruin_the_ninth(*batch):
        count.append(1)
        if len(count) == 9:
            t.model.weights[0].assign(t.model.weights[0] * np.nan)
        return step(*batch)

    t.train_step = ruin_the_ninth
    with pytest.raises(Diverged, match="from 7 to 10"):
        fit(t, halves, tmp_path, epochs=4, checkpoints=kept, checkpoint_steps=5)
    assert [step for step, _, _ in kept.made] == [5, 6]
    good = kept.made[-1][2]
    for i, value in enumerate(t._twin.get_weights()):
        np.testing.assert_array_equal(value, good[f"weight{i}"])


def test_a_stop_saves_the_very_step(halves, tmp_path, monkeypatch):
    kept, t = Kept(), trainer()
    step, count = t.train_step, []

    def asked_in_the_eighth(*batch):
        count.append(1)
        if len(count) == 8:
            monkeypatch.setattr(stopping, "_asked", signal.SIGTERM)
        return step(*batch)

    t.train_step = asked_in_the_eighth
    with pytest.raises(signals.Stopped):
        fit(t, halves, tmp_path, epochs=4, checkpoints=kept)
    assert [step for step, _, _ in kept.made] == [6, 8] and len(count) == 8
