"""Callbacks for Keras' `fit`: `RobustAccuracy`, `CatastrophicOverfitting` and `WeightAverage`."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

from tfadv.attacks import PGD, parse
from tfadv.attacks.gradient import sizes_of
from tfadv.datasets.arrays import as_arrays
from tfadv.errors import UserError
from tfadv.evaluation.evaluator import Execution, evaluate
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.evaluation.result import Result
from tfadv.models.logits import classifier
from tfadv.training.adversarial_model import AdversarialModel, steps_of
from tfadv.training.averaging import UPDATE_EVERY, AveragedWeights
from tfadv.training.trainer import COLLAPSE, ROBUST

LOG = logging.getLogger(__name__)


class RobustAccuracy(keras.callbacks.Callback):
    """Adds the accuracy under an attack to the logs of each epoch, as `val_robust_accuracy`.

        robust_accuracy = tfadv.RobustAccuracy(x_val, y_val, eps=8 / 255, restore_best_weights=True)
        model.fit(x, y, validation_data=(x_val, y_val), callbacks=[robust_accuracy, keras.callbacks.TensorBoard()])

    It works with any classifier, whether or not it is trained on adversarial images.  Callbacks that read the logs,
    such as `EarlyStopping("val_robust_accuracy", mode="max")`, must come after it in the list.  The model is also
    measured before training; where no epoch is better, a warning says so.  A `fit` that `BackupAndRestore` continues
    starts anew: no epoch before the restart is the best one, and its weights are lost.

    Attributes:
      before: the accuracy under attack before training.
      best: the highest accuracy under attack so far; an epoch that hardly does better than guessing does not count.
      best_epoch: its epoch, from 1; 0 is the model as it was before.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        attack: Any = None,
        eps: float | str | None = None,
        input_range: tuple[float, float] | None = None,
        *,
        restore_best_weights: bool = False,
        batch_size: int = 256,
    ) -> None:
        """Attacks nothing yet.

        Args:
          x: validation images in any form that `tfadv.evaluate` takes.  A few hundred suffice.
          y: their labels; None where `x` is a data set.
          attack: an attack, or its text such as "pgd(steps=50)".  None takes 10 steps of PGD, in the norm of the
            defense of an `AdversarialModel` where it has one.
          eps: one size of the perturbation for pixels in [0, 1]; None takes that of an `AdversarialModel`, and 8/255
            for other models.
          input_range: the (least, greatest) pixel value that the model takes; None takes that of an `AdversarialModel`,
            and (0, 1) for other models.
          restore_best_weights: whether the model ends with the weights of the best epoch, or with those from before
            where no epoch is better.
          batch_size: images per batch of the attack.

        Raises:
          ValueError: eps is none or several numbers.
        """
        super().__init__()
        if eps is not None and len(sizes_of(eps)) != 1:
            raise ValueError(f"eps must be one number, because there is one {ROBUST}, got {eps}.")
        self._given, self._attack, self._eps = (x, y), attack, eps
        self._range, self._batch_size, self._restore = input_range, batch_size, restore_best_weights
        self.before = self.best = 0.0
        self.best_epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Measures the model as it is before training."""
        self._prepare(self.model if isinstance(self.model, AdversarialModel) else None)
        result = self._measure()
        self.before, self.best_epoch = float(result.robust.mean()), 0
        # A model that guesses is hard to attack, and no reason to undo training.
        self.best, self._weights = (-1.0, None) if self._guesses(result) else (self.before, self._copy())
        LOG.info("before training, %.1f%% of the validation images are robust.", 100 * self.before)

    def _prepare(self, robust: AdversarialModel | None) -> None:
        """Fills in what was not given, for this AdversarialModel or for a model of another kind."""
        own_range, norm = (0.0, 1.0), "linf"
        eps: Any = 8 / 255
        if robust:
            own_range, norm, eps = robust.input_range, robust.defense.norm, robust.eps
        if self._attack is None and "+" in norm:
            raise ValueError(f"give an attack and its eps: the model trains against perturbations in {norm}.")
        attack = PGD(steps=10, norm=norm) if self._attack is None else self._attack
        self._used = parse(attack) if isinstance(attack, str) else attack
        if not getattr(self._used, "has_eps", True):
            eps = None
        elif robust and self._eps is None and robust.defense.eps == 0:
            raise ValueError(f"give eps for {self._used.label}: {robust.defense.label} trains without one.")
        if robust and eps and self._eps is None and getattr(self._used, "norm", "linf") != norm:
            raise ValueError(f"give eps for {self._used.label}: that of the model is for perturbations in {norm}.")
        self._size = eps if self._eps is None else sizes_of(self._eps)[0]
        input_range = self._range or own_range
        self._samples = as_arrays(*self._given, input_range)
        self._largest_share = largest_share(np.bincount(self._samples[1]).tolist())
        if robust and input_range == own_range:
            self._classifier = robust.classifier
        else:
            shape = self._samples[0].shape[1:]  # for a subclassed model that `fit` has not built yet
            self._classifier = classifier(
                robust.model if robust else self.model,
                input_range,
                quiet=True,
                input_shape=shape if len(shape) == 3 else None,
            )

    def _measure(self) -> Result:
        options: dict[str, Any] = {"batch_size": self._batch_size, "execution": Execution()}  # they are read already
        result = evaluate(self._classifier, *self._samples, self._used, self._size, **options)
        if result.upper_bound():
            LOG.warning("%s: %s", getattr(self._classifier, "name", "the model"), result.upper_bound())
        return result

    def _guesses(self, result: Result) -> bool:
        return hardly_better_than_guessing(result.clean_accuracy, self._largest_share)

    def _copy(self) -> list[np.ndarray] | None:
        return self.model.get_weights() if self._restore else None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Adds the accuracy to the logs."""
        result = self._measure()
        logs[ROBUST], guesses = float(result.robust.mean()), self._guesses(result)
        if isinstance(self.model, AdversarialModel):
            self.model._guesses = guesses
        if logs[ROBUST] > self.best and not guesses:
            self.best, self.best_epoch, self._weights = logs[ROBUST], epoch + 1, self._copy()

    def on_train_end(self, logs: Any = None) -> None:
        """Restores the best weights, and warns where training has brought nothing."""
        if self._weights is not None:
            self.model.set_weights(self._weights)
        if not self.best_epoch:
            LOG.warning(
                "no epoch was more robust than the model was before (%.1f%% of the validation images)%s: try another "
                "learning rate, more epochs, or a smaller eps.",
                *(100 * self.before, ", so its weights are unchanged" if self._weights is not None else ""),
            )


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Undoes the collapse of an `AdversarialModel` whose attack takes one step, and goes on with a stronger attack.

    Where `val_robust_accuracy` is 0.2 lower than in the best epoch, the weights and the optimizer's moments of that
    epoch are restored, and training continues with the defense's `fallback`, such as two steps of PGD.  An epoch that
    hardly does better than guessing is never the best, and the fallback is measured by its own epochs.  The rule is
    that of https://github.com/locuslab/fast_adversarial.  Put the callback after `RobustAccuracy` in the list.  A `fit`
    that `BackupAndRestore` continues starts anew, with the defense that the model was made with.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts without a best epoch."""
        if not isinstance(self.model, AdversarialModel):
            raise UserError("CatastrophicOverfitting is for tfadv.AdversarialModel, whose attack it strengthens.")
        self._best, self._epoch = -1.0, 0
        self._weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keeps the weights of the best epoch, or restores them."""
        value = logs.get(ROBUST)
        if value is None:
            raise UserError(f"CatastrophicOverfitting needs {ROBUST}: put tfadv.RobustAccuracy before it in the list.")
        if value > self._best and not self.model._guesses:
            self._best, self._epoch, self._weights = value, epoch + 1, self.model.get_weights()
            self._moments = [(v, v.numpy()) for v in self.model.optimizer.variables if _is_moment(v)]
        elif value < self._best - COLLAPSE:
            self._restore(epoch + 1, value)

    def _restore(self, epoch: int, value: float) -> None:
        stronger = self.model.defense.fallback()
        LOG.warning(
            "epoch %d: robust validation accuracy fell from %.1f%% to %.1f%% (catastrophic overfitting). The weights "
            "of epoch %d are restored%s.",
            *(epoch, 100 * self._best, 100 * value, self._epoch),
            f"; training continues with {stronger.label}" if stronger else "",
        )
        self.model.set_weights(self._weights)
        for variable, moment in self._moments:
            variable.assign(moment)
        if stronger is not None:
            self._best, self.model.defense = -1.0, stronger
            self.model.make_train_function(force=True)  # `fit` compiled the one with the weaker attack


def _is_moment(variable: keras.Variable) -> bool:
    """Whether a variable of an optimizer belongs to the weights, and not to the position in training."""
    return variable.path.rsplit("/", 1)[-1] not in ("iteration", "learning_rate")


class WeightAverage(keras.callbacks.Callback):
    """Averages the weights over the last steps of `fit`.

        model.fit(x, y, callbacks=[tfadv.WeightAverage(0.999), tfadv.RobustAccuracy(x_val, y_val)])

    BatchNorm's statistics are averaged, too; the `use_ema` of Keras' optimizers leaves them out.  Validation, and the
    callbacks after this one in the list, see the averages at the end of each epoch, and the model has them after `fit`.
    Training itself goes on with the weights.  Put `BackupAndRestore` before it in the list: a `fit` that is continued
    starts with a new average.
    """

    def __init__(self, decay: float = 0.9995) -> None:
        """Averages nothing yet.

        Args:
          decay: per step, in (0, 1): the average is over about the last 1 / (1 - decay) steps, and over fewer of the
            first ones.

        Raises:
          ValueError: the decay is not in (0, 1).
        """
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay must be above 0 and below 1, got {decay}.")
        self.decay = decay
        self._averaged: AveragedWeights | None = None  # during `fit`
        self._shown: list[np.ndarray] | None = None  # the averages, while they are in the model

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts at the present weights."""
        with self.model.distribute_strategy.scope():
            self._averaged = AveragedWeights(self.model.variables)
        self._first = self._last = self._step()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes the weights into the average, in every tenth step."""
        step = self._begun + batch + 1  # to ask the optimizer would wait for a GPU in each step
        if step - self._last >= UPDATE_EVERY:
            self._update(step)

    def _step(self) -> int:
        return int(steps_of(self.model.optimizer))

    def _update(self, step: int) -> None:
        """Takes the weights after a step into the average, with the weight of the steps since the last time."""
        if self._averaged and step > self._last:
            self._averaged.update(step - self._first, step - self._last, self.decay)
            self._last = step

    def on_test_begin(self, logs: Any = None) -> None:
        """Validates the averages."""
        self._show()

    def on_test_end(self, logs: Any = None) -> None:
        """Puts the weights of training back."""
        self._hide()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Puts the averages into the model, for the callbacks after this one."""
        self._show()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Puts the weights of training back."""
        self._hide()
        self._begun = self._step()

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the averages in the model."""
        self._show()
        self._averaged = self._shown = None

    def _show(self) -> None:
        if self._averaged and self._shown is None:
            self._update(self._step())
            self._averaged.swap()
            self._shown = self.model.get_weights()

    def _hide(self) -> None:
        if self._averaged and self._shown is not None:
            if all(map(np.array_equal, self._shown, self.model.get_weights())):
                self._averaged.swap()
            else:  # another callback has set the weights, such as CatastrophicOverfitting
                self._averaged.reset()
        self._shown = None
