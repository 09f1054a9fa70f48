"""Callbacks of the training loop that Keras does not have."""

import math

import keras
import numpy as np

from tfadv.errors import UserError


class WarmupCosine(keras.callbacks.Callback):
    """Learning rate: linear from 0 to the peak, then half a cosine to 0.

    Set step by step on the optimizer's variable.  A Keras schedule would bake
    the number of steps into the compiled step, and each variant has its own.
    """

    def __init__(self, peak, warmup, total, first=0):
        """`warmup` and `total` in optimizer steps; `first` is the step to begin with."""
        super().__init__()
        self.peak, self.warmup, self.total, self._step = peak, warmup, total, first

    def rate(self, step):
        """float, the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.total - self.warmup))) / 2

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self.rate(self._step)
        self._step += 1


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops as soon as the running loss is not finite, instead of training on with ruined weights."""

    EVERY = 20  # steps between two looks: each look waits for the step to end

    def __init__(self, first=0):
        """`first` is the step to begin with."""
        super().__init__()
        self._step = self._good = first

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self.EVERY == 0:
            self._look(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._look(logs)

    def _look(self, logs):
        if not np.isfinite(float((logs or {}).get("loss", 0.0))):
            raise UserError(
                f"the training loss is no longer finite, since a step from {self._good + 1} to {self._step}: "
                "give a smaller --learning_rate. Nothing made before is lost."
            )
        self._good = self._step
