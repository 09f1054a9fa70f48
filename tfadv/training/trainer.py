"""The training loop, for one device or many.  It can stop and resume at any step."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.datasets.batches import Samples, evaluation_batches, training_batches
from tfadv.defenses.base import OPTIMIZERS, Defense
from tfadv.errors import UserError, check_name
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.models.accelerate import accelerated
from tfadv.models.twins import float32_twin, is_quantized
from tfadv.runtime import signals
from tfadv.runtime.compilation import use_accelerated
from tfadv.runtime.console import progress_disabled
from tfadv.runtime.devices import Devices
from tfadv.runtime.peers import peers_may_die
from tfadv.training import divergence
from tfadv.training.adam import Adam
from tfadv.training.averaging import UPDATE_EVERY, AveragedWeights
from tfadv.training.best import Best
from tfadv.training.checkpoints import Checkpoints
from tfadv.training.messages import epoch_line
from tfadv.training.schedule import delayed_ramp, warmup_cosine
from tfadv.training.settings import TrainingSettings
from tfadv.training.sgd import SGD
from tfadv.training.steps import Steps
from tfadv.training.tensorboard import TrainingLog

LOG = logging.getLogger(__name__)
ROBUST_VALIDATION_IMAGES = 1000  # attacked after each epoch of adversarial training
# Robust validation accuracy that is so much lower than the best one means that training has collapsed (catastrophic
# overfitting): the stop rule of https://github.com/locuslab/fast_adversarial.
COLLAPSE = 0.2
CHECKPOINT_SECONDS = 60  # the most that a kill loses
ROBUST = "val_robust_accuracy"
_OPTIMIZERS = {"sgd": SGD, "adam": Adam}


@dataclasses.dataclass
class _Progress:
    """Position of a run: step `step` of epoch `epoch` comes next; sums and history so far."""

    epoch: int = 0
    step: int = 0
    sums: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))  # loss, correct, images of this epoch
    history: dict = dataclasses.field(default_factory=dict)
    gradients: float = 0.0  # gradient images so far
    collapsed: int = 0  # the epoch after which the fallback took over, 0: none
    start: dict = dataclasses.field(default_factory=dict)  # validation metrics of the weights that training starts from


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts of one call of `Trainer.fit`."""

    name: str
    settings: TrainingSettings
    batch_size: int
    steps: int  # per epoch
    total: int  # steps of all epochs
    batches: Iterator  # those that are still to come, of all epochs
    validation: tf.data.Dataset
    largest_share: float  # of a class among the validation images
    best: Best
    divergence: divergence.DivergenceCheck
    checkpoints: Checkpoints | None
    log: TrainingLog

    def steps_done(self, progress: _Progress) -> int:
        return progress.epoch * self.steps + progress.step

    @property
    def epochs(self) -> int:
        return -(-self.total // self.steps)

    def steps_in(self, epoch: int) -> int:
        return min(self.steps, self.total - epoch * self.steps)


class Trainer:
    """Trains one model, any number of times.

    Tracing and optimizing the graph of a deep network takes longer than an epoch
    on few images, so the compiled steps are kept for all runs.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        defense: Defense,
        optimizer: str = "sgd",
        weight_decay: float = 0.0,
        precision: str = "float32",
        batch_parts: int = 1,
        devices: Devices | None = None,
    ) -> None:
        """Compiles the steps; of the model, only its variables will change.

        Args:
          model: float32 images in [0, 1] → logits, built in the scope of the devices' strategy.  One in half precision
            is trained as its float32 twin.
          defense: how it is trained; its length and its rates are given apart from it.
          optimizer: "sgd", with Nesterov momentum 0.9, or "adam".
          weight_decay: decoupled, of kernels.
          precision: as in `accelerated`.
          batch_parts: each device processes its slice of a batch in this many equal parts, which takes less memory; see
            `Steps.train`.
          devices: None means the default device.

        Raises:
          UserError: the model is quantized, or `precision` needs an optimized clone and clones are off.
        """
        if not isinstance(optimizer, str):
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {type(optimizer).__name__}.")
        check_name("optimizer", optimizer, OPTIMIZERS)
        self.model = model
        self._defense = self._active = defense  # the active one takes over where training has collapsed
        self._devices = devices or Devices()
        with self._devices.strategy.scope():
            self._network = _network(model, precision)
            self._optimizer = _OPTIMIZERS[optimizer](decay=weight_decay)
            self._optimizer.build(self._network.trainable_variables)
        self._average: AveragedWeights | None = None
        self._parts, self._saved = batch_parts, 0.0
        self._steps = Steps(self._network, self._optimizer, self._devices, batch_parts)
        # A partial, because TensorFlow warns of retracing where functions of the same code are traced for many models.
        self._weights_finite = tf.function(functools.partial(_all_finite, self._network.weights), autograph=False)

    def train_step(
        self,
        x: Any,
        y: Any,
        eps: float = 0.0,
        seed: tuple[int, int] = (0, 0),
        uniform: bool = False,
    ) -> tf.Tensor:
        """Updates the weights by one batch; arguments and result are those of `Steps.train`."""
        return self._steps.train(self._active, x, y, eps, seed, uniform)

    def fit(
        self,
        samples: Samples,
        validation: Samples,
        settings: TrainingSettings,
        *,
        log: TrainingLog | None = None,
        checkpoints: Checkpoints | None = None,
        name: str = "training",
    ) -> dict:
        """Trains from the model's present weights and leaves the best ones in the model.

        The best epoch is that of the highest validation accuracy or, for defenses that attack, of the highest accuracy
        under PGD on the first validation images; these run all epochs, because the last, with a small learning rate,
        bring the most.  There the model that training starts from is a candidate as well, and an epoch that hardly does
        better than guessing is none.  Where that accuracy collapses, compared with epochs that do not guess, the best
        weights are restored and the defense's `fallback` takes over.

        Args:
          samples: training samples.
          validation: samples that decide which epoch was best and when to stop.
          settings: how to train.
          log: writes curves for TensorBoard and is closed at the end; None writes nothing.
          checkpoints: where to save the state after each epoch, each minute and when `signals` asks to stop, and where
            to resume from; or None.
          name: shown in the progress bar.

        Returns:
          dict: "history" (one list per metric), "best_epoch" (from 1; 0 is the start), "steps" (batches), "gradients"
          (forward and backward passes of single images, for updates and attacks, those on validation images too);
          where the start is a candidate, "start" (the validation metrics before training); and, where training has
          collapsed, "collapsed_epoch".

        Raises:
          Diverged: the loss is not finite or has exploded; the model has the weights of the last checkpoint, or without
            any those from before.
          Stopped: a signal came; the present step was completed and a checkpoint written.
          UserError: the devices can't share the batch equally, or another host is gone.
        """
        self._devices.check_batch(settings.batch_size, self._parts)
        for variable in self._optimizer.variables:  # momentum and step count of an earlier run
            variable.assign(np.zeros(variable.shape))
        # Not the loss: that of an over-confident network rises while its accuracy still rises, too.
        self._active = self._defense
        self._average = self._new_average() if settings.average else None
        best = Best(None if self._defense.attacks or settings.steps else settings.patience)
        saved = checkpoints.load() if checkpoints else None
        log = log or TrainingLog(None)
        if not saved:
            log.start(samples, settings.seed, settings.augmentations)
        progress = self._restore(*saved, best) if saved else _Progress()
        if saved:
            steps = f" and {progress.step} steps" if progress.step else ""
            LOG.info("%s: resuming after epoch %d%s", name, progress.epoch, steps)
        run = self._prepare(samples, validation, settings, best, checkpoints, log, name, progress)
        start, self._saved = self._network.get_weights(), time.monotonic()
        try:
            with signals.in_steps(), peers_may_die():
                if (settings.keep_start or self._defense.attacks) and not saved:
                    progress.start = self._validate(run, progress)
                    best.update(0, self._value(run, progress.start), lambda: start)
                self._run_epochs(run, progress)
        except BaseException as error:
            saved = checkpoints.load() if checkpoints else None
            if saved and isinstance(error, divergence.Diverged):
                _assign(self._network.weights, saved[1], "weight")
            elif not checkpoints:
                self._network.set_weights(start)
            raise
        finally:
            log.close()
        self._network.set_weights(best.weights)
        record = {
            "history": progress.history,
            "best_epoch": best.epoch,
            "steps": min(run.steps_done(progress), run.total),
            "gradients": round(progress.gradients),
        }
        record |= {"start": progress.start} if progress.start else {}
        return record | ({"collapsed_epoch": progress.collapsed} if progress.collapsed else {})

    def _prepare(
        self,
        samples: Samples,
        validation: Samples,
        settings: TrainingSettings,
        best: Best,
        checkpoints: Checkpoints | None,
        log: TrainingLog,
        name: str,
        progress: _Progress,
    ) -> _Run:
        slices = self._devices.replicas * self._parts
        if len(samples) < slices:
            raise UserError(f"{len(samples)} training images can't be shared by {slices} devices or parts of a batch.")
        batch_size = min(settings.batch_size, len(samples) // slices * slices)
        total = settings.steps or settings.epochs * (len(samples) // batch_size)
        batches, steps = training_batches(
            samples,
            batch_size=batch_size,
            epochs=-(-total // (len(samples) // batch_size)),
            seed=settings.seed,
            augmentations=settings.augmentations,
            first=(progress.epoch, progress.step),
            share=self._devices.share,
        )
        held_out = evaluation_batches(
            validation, batch_size=max(1, batch_size // self._parts), share=self._devices.share
        )
        loss, _, images = progress.sums
        check = divergence.DivergenceCheck(
            self.model.output_shape[-1], progress.epoch * steps + progress.step, loss, images
        )
        share = largest_share(np.bincount(validation.labels).tolist())
        following = iter(batches)
        return _Run(name, settings, batch_size, steps, total, following, held_out, share, best, check, checkpoints, log)

    def _run_epochs(self, run: _Run, progress: _Progress) -> None:
        while progress.epoch < run.epochs and not run.best.ends:
            started, first = time.monotonic(), run.steps_done(progress)
            stop, first_step = self._run_epoch(run, progress)
            done = run.steps_done(progress)
            step = _seconds_per_step(time.monotonic() - started, done - first, first_step)
            rate = run.batch_size / max(step, 1e-9)  # clocks may be coarse
            with self._averaged():
                metrics = self._finish_epoch(run, progress)
                run.best.update(progress.epoch, self._value(run, metrics), self._network.get_weights)
            self._check_collapse(run, progress, metrics)
            seconds = time.monotonic() - started - first_step + step  # with validation
            seconds_left = seconds / (done - first) * (run.total - done)
            learning_rate = warmup_cosine(done - 1, peak=run.settings.learning_rate, total=run.total)
            run.log.epoch(progress.epoch, metrics, learning_rate=learning_rate, images_per_second=rate)
            LOG.info("%s", epoch_line(run.name, progress.epoch, run.epochs, metrics, rate, seconds_left))
            if progress.epoch < run.epochs and not run.best.ends:  # else the model itself is written next
                self._save_checkpoint(run, progress)
                if stop:
                    _raise_stopped()

    def _run_epoch(self, run: _Run, progress: _Progress) -> tuple[bool, float]:
        """The rest of an epoch, from `progress` on; returns whether to stop after it, and its first step's seconds."""
        settings, total, steps = run.settings, run.total, run.steps_in(progress.epoch)
        sums, stop, workers = tf.constant(progress.sums), False, self._devices.workers
        started, first_step = time.monotonic(), 0.0
        with tqdm(
            total=steps, initial=progress.step, unit="step", desc=run.name, leave=False, disable=progress_disabled()
        ) as bar:
            while progress.step < steps:
                x, y = next(run.batches)
                step = run.steps_done(progress)
                self._optimizer.learning_rate = warmup_cosine(step, peak=settings.learning_rate, total=total)
                x, y = self._devices.distribute_share(x), self._devices.distribute_share(y)
                sums += self.train_step(x, y, *self._perturbation(settings, step, total))
                first_step = first_step or time.monotonic() - started
                progress.step += 1
                progress.gradients += run.batch_size * self._active.cost
                done, at_end = run.steps_done(progress), progress.step == steps
                if self._average and (done % UPDATE_EVERY == 0 or at_end):
                    since = min(step % UPDATE_EVERY + 1, progress.step)  # an epoch ends with an update
                    self._average.update(done, since, settings.average)
                bar.update()
                check = done % divergence.CHECK_EVERY == 0 or at_end
                # Several hosts have to stop at the same step, so they exchange requests when they check.
                stop, due = signals.asked(), time.monotonic() > self._saved + CHECKPOINT_SECONDS
                if workers > 1:
                    stop, due = (check and self._devices.sum_over_workers(each) > 0 for each in (stop, due))
                if check or stop or due:
                    progress.sums = sums.numpy()
                    run.divergence.check(done, progress.sums[0], progress.sums[2], bool(self._weights_finite()))
                if (stop or due) and not at_end:  # at its end, the epoch is validated first
                    self._save_checkpoint(run, progress)
                    if stop:
                        _raise_stopped()
        run.divergence.new_epoch()
        return stop, first_step

    def _finish_epoch(self, run: _Run, progress: _Progress) -> dict[str, float]:
        """Validates, appends to the history and moves `progress` to the next epoch; returns the epoch's metrics."""
        loss, correct, images = progress.sums
        logs = {"loss": float(loss / images), "accuracy": float(correct / images), **self._validate(run, progress)}
        for key, value in logs.items():
            progress.history.setdefault(key, []).append(value)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, np.zeros(3)
        return logs

    def _validate(self, run: _Run, progress: _Progress) -> dict[str, float]:
        """The metrics of the validation images; the gradients of attacks on them are counted."""
        sums = np.zeros(3)
        for batch in run.validation:
            sums += self._steps.validate(*map(self._devices.distribute_share, batch)).numpy()
            signals.asked()  # shows that this process reacts to signals, however long validation takes
        metrics = {"val_loss": sums[0] / sums[2], "val_accuracy": sums[1] / sums[2]}
        if self._defense.attacks:
            metrics[ROBUST], attacked = self._robust_accuracy(run)
            progress.gradients += attacked * self._defense.validation_cost
        return {key: float(value) for key, value in metrics.items()}

    def _value(self, run: _Run, metrics: dict[str, float]) -> float:
        """What the best epoch has most of."""
        if not self._defense.attacks:
            return metrics["val_accuracy"]
        guesses = hardly_better_than_guessing(metrics["val_accuracy"], run.largest_share)
        return -1.0 if guesses else metrics[ROBUST]  # a network that always gives one answer is hard to attack

    def _robust_accuracy(self, run: _Run) -> tuple[float, int]:
        """(robust accuracy of the first validation images, how many these are), see `Defense.robust`."""
        sums = np.zeros(2)
        for batch in run.validation:
            x, y, weights = map(self._devices.distribute_share, batch)
            sums += self._steps.robust(self._defense, x, y, weights, run.settings.eps).numpy()
            signals.asked()
            if sums[1] >= ROBUST_VALIDATION_IMAGES:
                break
        return sums[0] / sums[1], int(sums[1])

    def _perturbation(self, settings: TrainingSettings, step: int, total: int) -> tuple[float, tuple[int, int], bool]:
        """(size, seed, whether sizes are drawn for each image) of a step's perturbations."""
        given, schedule = getattr(self._defense, "sizes", ()), getattr(self._defense, "eps_schedule", "fixed")
        peak = given[0] if given else settings.eps
        size = delayed_ramp(step, peak=peak, total=total) if schedule == "ramp" else peak
        return size, (settings.seed, -1 - step), schedule == "uniform"  # augmentation draws from steps >= 0

    def _new_average(self) -> AveragedWeights:
        with self._devices.strategy.scope():
            return AveragedWeights(self._network.weights)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network has the averaged weights for the time of a block, where there are any."""
        if self._average:
            self._average.swap()
        try:
            yield
        finally:
            if self._average:
                self._average.swap()

    def _check_collapse(self, run: _Run, progress: _Progress, logs: dict[str, float]) -> None:
        """Restores the best weights where robust accuracy has collapsed, and continues with the fallback."""
        if ROBUST not in logs:
            return
        best, epochs = run.best, zip(progress.history["val_accuracy"], progress.history[ROBUST], strict=True)
        values = [self._value(run, {"val_accuracy": clean, ROBUST: attacked}) for clean, attacked in epochs]
        highest = max(values[progress.collapsed :])  # the fallback is measured by its own epochs
        if logs[ROBUST] >= highest - COLLAPSE:
            return
        stronger = self._active.fallback()
        LOG.warning(
            "%s epoch %d: robust validation accuracy fell from %.1f%% to %.1f%% (catastrophic overfitting). The "
            "weights of epoch %d are restored%s.",
            *(run.name, progress.epoch, 100 * highest, 100 * logs[ROBUST], best.epoch),
            f"; training continues with {stronger.label}" if stronger else "",
        )
        self._network.set_weights(best.weights)
        if self._average:
            self._average.reset()
        for variable in self._optimizer.variables[2:]:  # momentum; not the step count and the learning rate
            variable.assign(np.zeros(variable.shape))
        if stronger is not None:
            self._active = stronger
            progress.collapsed = progress.collapsed or progress.epoch

    def _save_checkpoint(self, run: _Run, progress: _Progress) -> None:
        self._saved = time.monotonic()
        if run.checkpoints:
            run.checkpoints.save(run.steps_done(progress), *self._state_dict(progress, run.best))

    def _state_dict(self, progress: _Progress, best: Best) -> tuple[dict, dict[str, np.ndarray]]:
        """(state, arrays): everything that the coming steps depend on.

        Order and augmentation of the images follow from (seed, epoch, step), so no random state is needed.
        """
        arrays = {f"weight{i}": v.numpy() for i, v in enumerate(self._network.weights)}
        arrays |= {f"optimizer{i}": v.numpy() for i, v in enumerate(self._optimizer.variables)}
        arrays |= {f"average{i}": a for i, a in enumerate(self._average.numpy() if self._average else [])}
        state = {field.name: getattr(progress, field.name) for field in dataclasses.fields(progress)}
        of_best, best_weights = best.state()
        return state | {"sums": progress.sums.tolist()} | of_best, arrays | best_weights

    def _restore(self, state: dict, arrays: dict[str, np.ndarray], best: Best) -> _Progress:
        """Restores what `_state_dict` returned."""
        _assign(self._network.weights, arrays, "weight")
        _assign(self._optimizer.variables, arrays, "optimizer")
        best.restore(state, arrays)
        if self._average:
            self._average.assign([arrays[f"average{i}"] for i in range(len(self._average.numpy()))])
        progress = _Progress(**{field.name: state[field.name] for field in dataclasses.fields(_Progress)})
        progress.sums = np.asarray(progress.sums)
        if progress.collapsed:
            self._active = self._defense.fallback() or self._defense
        return progress


def attacked_images(validation: int, batch_size: int) -> int:
    """How many validation images are attacked after an epoch: the first ones, in whole batches."""
    return min(validation, -(-ROBUST_VALIDATION_IMAGES // batch_size) * batch_size)


def _network(model: keras.Model, precision: str) -> keras.Model:
    """The model that is trained in place of `model`; it shares its variables."""
    if is_quantized(model):
        raise UserError(f"{model.name} is quantized, and can't be trained: harden the float model, then quantize it.")
    model = float32_twin(model) or model
    if not use_accelerated():
        if precision != "float32":
            raise UserError(
                f"--precision={precision} needs optimized clones, which compute in bfloat16: unset TFADV_ACCELERATE."
            )
        return model
    return accelerated(model, precision)


def _seconds_per_step(seconds: float, steps: int, first_step: float) -> float:
    """Mean without the first step, which may compile; a single step counts in full."""
    return (seconds - first_step) / (steps - 1) if steps > 1 else seconds / steps


def _raise_stopped() -> None:
    signals.stop()
    raise signals.Stopped(signal.SIGTERM)  # another host was asked to stop


def _all_finite(variables: list[keras.Variable]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables if v.dtype == "float32"])


def _assign(variables: list[keras.Variable], arrays: dict[str, np.ndarray], key: str) -> None:
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{key}{i}"])
