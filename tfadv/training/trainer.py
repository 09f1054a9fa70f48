"""The training loop: one for a single device and for many, which stops and goes on at any step."""

import dataclasses
import logging
import math
import shutil
import signal
import typing

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.runtime import signals
from tfadv.attacks.gradient import xla
from tfadv.datasets.batches import evaluation_batches, training_batches
from tfadv.runtime.devices import Devices, peers_may_die
from tfadv.models.accelerate import accelerated
from tfadv.training import divergence
from tfadv.training.schedule import warmup_cosine
from tfadv.training.sgd import SGD
from tfadv.training.image_logs import write_augmentation_sheet

LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class _Place:
    """Where a run stands: step `step` of epoch `epoch` comes next; sums and history so far."""

    epoch: int = 0
    step: int = 0
    sums: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))  # loss, right, images in this epoch
    history: dict = dataclasses.field(default_factory=dict)

    def done(self, plan):
        """int, the steps made in all."""
        return self.epoch * plan.steps + self.step


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What one run is to do; `steps` in an epoch."""

    name: str
    epochs: int
    steps: int
    learning_rate: float
    checkpoint_steps: int
    batches: typing.Iterator


class Trainer:
    """Trains one model, as often as wanted, with SGD, Nesterov momentum 0.9 and weight decay.

    Tracing and optimising the graph of a deep network takes longer than many an
    epoch on few images, so the compiled steps are kept for all its variants.
    """

    def __init__(self, model, *, weight_decay, precision="float32", jit_compile="auto", devices=None):
        """Compiles the steps.

        Args:
          model: float32 images in [0, 1] → logits, built in the scope of the devices' strategy.
          weight_decay: float.
          precision: as in `accelerated`.
          jit_compile: "auto", "true" or "false".
          devices: `Devices`; None is the one device.
        """
        self.model = model
        self._devices = devices or Devices()
        with self._devices.strategy.scope():
            self._twin = accelerated(model, precision)  # of the same variables
            self._optimizer = SGD(decay=weight_decay)
            self._optimizer.build(self._twin.trainable_variables)
            self._twin.compile(self._optimizer)  # where callbacks look for it
        self.train_step = self._devices.summing(self._train_slice, jit_compile=xla(jit_compile))
        self._validate = self._devices.summing(self._validate_slice, jit_compile=xla(jit_compile))
        self._sound = tf.function(lambda: _all_finite(self._twin.weights))

    def _train_slice(self, x, y):
        """Moves the weights; float64 (3,): sum of the losses, images that were right, images."""
        with tf.GradientTape() as tape:
            logits = self._twin(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            # The optimizer sums over the devices.
            loss = tf.reduce_sum(losses) / (x.shape[0] * self._devices.replicas)
        variables = self._twin.trainable_variables
        if variables:
            self._optimizer.apply(tape.gradient(loss, variables), variables)
        # Each device has moved BatchNorm's statistics by its own slice.
        self._devices.average([v for v in self._twin.non_trainable_variables if v.dtype == "float32"])
        return _sums(losses, logits, y, tf.ones_like(losses))

    def _validate_slice(self, x, y, counts):
        logits = self._twin(x, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return _sums(losses, logits, y, counts)

    def fit(
        self,
        samples,
        validation,
        *,
        epochs,
        batch_size,
        learning_rate,
        patience,
        seed,
        log_dir=None,
        augmentations=(),
        checkpoints=None,
        checkpoint_steps=0,
        name="training",
    ):
        """Trains from the model's present weights and leaves the best ones, by validation accuracy, in the model.

        Args:
          samples: `Samples` to learn from.
          validation: `Samples` that decide which epoch was best and when to stop.
          epochs: int, at most.
          batch_size: int, images in a step, on all devices together.
          learning_rate: float, the peak; see `warmup_cosine`.
          patience: int, epochs without a higher validation accuracy before signals.
          seed: int, of order and augmentation.
          log_dir: path for TensorBoard, or None; `train` and `validation` appear in it,
            and a sheet of augmented images.
          augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
          checkpoints: `Checkpoints`, or None; the run goes on after the newest one, and writes one after each
            epoch and where `stopping` asks it to end.
          checkpoint_steps: int, write one after so many steps as well; 0 does not.
          name: str, shown at the progress bar.

        Returns:
          dict: "history" (one list a metric), "best_epoch" (from 1), "steps" (optimizer steps made).

        Raises:
          Diverged: the loss is not finite or has exploded; the model has the weights of the last checkpoint.
          Stopped: asked for, after the present step and a checkpoint.
          UserError: the devices can't share the batch, or another host is gone.
        """
        devices = self._devices
        devices.check_batch(batch_size)
        batch_size = min(batch_size, len(samples) // devices.replicas * devices.replicas)
        for variable in self._optimizer.variables:  # momentum and step count of an earlier run
            variable.assign(np.zeros(variable.shape))
        # Not the loss: that of an over-confident network rises while its accuracy still does, too.
        early = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=patience, restore_best_weights=True)
        saved = checkpoints.load() if checkpoints else None
        if log_dir and not saved:
            shutil.rmtree(log_dir, ignore_errors=True)  # curves of an earlier try would overlay these
            if augmentations:
                write_augmentation_sheet(log_dir, samples, seed, augmentations)
        boards = [keras.callbacks.TensorBoard(str(log_dir), write_graph=False)] if log_dir else []
        callbacks = keras.callbacks.CallbackList([early, *boards], model=self._twin)
        self._twin.stop_training = False
        callbacks.on_train_begin()
        place = self._bring_back(*saved, early) if saved else _Place()
        if saved:
            after = f" and {place.step} steps" if place.step else ""
            LOG.info("%s: going on after epoch %d%s", name, place.epoch, after)
        batches, steps = training_batches(
            samples,
            batch_size=batch_size,
            epochs=epochs,
            seed=seed,
            augmentations=augmentations,
            first=(place.epoch, place.step),
        )
        held = evaluation_batches(validation, batch_size=batch_size)
        plan = _Plan(name, epochs, steps, learning_rate, checkpoint_steps, iter(batches))
        watch = divergence.Guard(self.model.output_shape[-1], place.done(plan), place.sums[0], place.sums[2])

        def keep():
            if checkpoints:
                checkpoints.save(place.done(plan), *self._pack(place, early))

        try:
            with signals.in_steps(), peers_may_die():
                while place.epoch < epochs and not self._twin.stop_training:
                    stop = self._epoch(plan, place, watch, keep)
                    logs = self._end_of_epoch(place, held)
                    callbacks.on_epoch_end(place.epoch - 1, logs)
                    LOG.info("%s epoch %d/%d: %s", name, place.epoch, epochs, _words(logs))
                    if place.epoch < epochs and not self._twin.stop_training:  # else the model itself is written next
                        keep()
                        if stop:
                            _leave()
        except divergence.Diverged:
            saved = checkpoints.load() if checkpoints else None
            if saved:
                _assign(self._twin.weights, saved[1], "weight")
            raise
        callbacks.on_train_end()
        return {
            "history": place.history,
            "best_epoch": early.best_epoch + 1,
            "steps": int(self._optimizer.iterations.numpy()),
        }

    def _epoch(self, plan, place, watch, keep):
        """The rest of an epoch, from `place` on; returns whether to stop now that it has ended."""
        sums, stop, workers = tf.constant(place.sums), False, self._devices.workers
        with tqdm(total=plan.steps, initial=place.step, unit="step", desc=plan.name, leave=False, disable=None) as bar:
            while place.step < plan.steps:
                x, y = next(plan.batches)
                rate = warmup_cosine(place.done(plan), peak=plan.learning_rate, total=plan.epochs * plan.steps)
                self._optimizer.learning_rate = rate
                sums += self.train_step(self._devices.split(x), self._devices.split(y))
                place.step += 1
                bar.update()
                done, at_end = place.done(plan), place.step == plan.steps
                look = done % divergence.EVERY == 0 or at_end
                # Several hosts have to stop at the same step, so they tell each other when they look.
                asked = signals.asked()
                stop = asked if workers == 1 else look and self._devices.sum_over_workers(asked) > 0
                due = plan.checkpoint_steps and done % plan.checkpoint_steps == 0
                if look or stop or due:
                    place.sums = sums.numpy()
                    watch.look(done, place.sums[0], place.sums[2], bool(self._sound()))
                if (stop or due) and not at_end:  # at its end, the epoch is validated first
                    keep()
                    if stop:
                        _leave()
        watch.new_epoch()
        return stop

    def _end_of_epoch(self, place, held):
        """Validates, writes the history and moves `place` to the next epoch; returns the epoch's figures."""
        loss, right, images = place.sums
        logs = {"loss": loss / images, "accuracy": right / images}
        sums = sum(self._validate(*map(self._devices.split, batch)).numpy() for batch in held)
        logs |= {"val_loss": sums[0] / sums[2], "val_accuracy": sums[1] / sums[2]}
        logs = {key: float(value) for key, value in logs.items()}
        for key, value in logs.items():
            place.history.setdefault(key, []).append(value)
        place.epoch, place.step, place.sums = place.epoch + 1, 0, np.zeros(3)
        return logs

    def _pack(self, place, early):
        """(state, arrays): all that the steps to come depend on.

        Order and augmentation of the images follow from (seed, epoch, step), so no random state is needed.
        """
        arrays = {f"weight{i}": v.numpy() for i, v in enumerate(self._twin.weights)}
        arrays |= {f"optimizer{i}": v.numpy() for i, v in enumerate(self._optimizer.variables)}
        arrays |= {f"best{i}": a for i, a in enumerate(early.best_weights or [])}
        state = {"epoch": place.epoch, "step": place.step, "sums": place.sums.tolist(), "history": place.history}
        return state | {"wait": early.wait, "best": early.best, "best_epoch": early.best_epoch}, arrays

    def _bring_back(self, state, arrays, early):
        """Undoes `_pack`."""
        _assign(self._twin.weights, arrays, "weight")
        _assign(self._optimizer.variables, arrays, "optimizer")
        early.wait, early.best, early.best_epoch = state["wait"], state["best"], state["best_epoch"]
        if "best0" in arrays:
            early.best_weights = [arrays[f"best{i}"] for i in range(len(self._twin.weights))]
        return _Place(state["epoch"], state["step"], np.asarray(state["sums"]), state["history"])


def _leave():
    signals.stop()
    raise signals.Stopped(signal.SIGTERM)  # another host was asked to


def _sums(losses, logits, y, counts):
    right = tf.cast(tf.argmax(logits, axis=1) == y, tf.float32)
    rows = tf.cast(tf.stack([losses * counts, right * counts, counts]), tf.float64)
    return tf.reduce_sum(rows, axis=1)


def _all_finite(variables):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables if v.dtype == "float32"])


def _assign(variables, arrays, key):
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{key}{i}"])


def _words(logs):
    return ", ".join(f"{key} {value:.4f}" if math.isfinite(value) else f"{key} {value}" for key, value in logs.items())
