"""An exponential moving average of a network's weights, which is often more robust than the last weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

UPDATE_EVERY = 10  # steps: an update reads and writes all weights and averages once more


class AveragedWeights:
    """The average of weights over the last 1 / (1 - decay) steps, BatchNorm's statistics included."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        """Starts at the present values; call it in the scope of the strategy that the variables were created in."""
        self._variables = [v for v in variables if v.dtype == "float32"]
        self._averages = [keras.Variable(v.numpy(), trainable=False, dtype="float32") for v in self._variables]
        self._move_by = tf.function(functools.partial(_move, self._averages, self._variables), autograph=False)

    def reset(self) -> None:
        """Starts again at the present values."""
        for average, variable in zip(self._averages, self._variables):
            average.assign(variable.numpy())

    def update(self, step: int, since: int, decay: float) -> None:
        """Takes the weights after a step into the average.

        Args:
          step: number of steps completed.
          since: those since the last update; the weights count as often.
          decay: per step, in (0, 1).  In the first steps it is at most (1 + step) / (10 + step), as in
            `tf.train.ExponentialMovingAverage`, so that short trainings forget the weights that they started with.
        """
        share = 1 - min(decay, (1 + step) / (10 + step)) ** since
        self._move_by(tf.constant(share, tf.float32))

    def swap(self) -> None:
        """Exchanges weights and averages."""
        for average, variable in zip(self._averages, self._variables):
            value = variable.numpy()
            variable.assign(average.numpy())
            average.assign(value)

    def numpy(self) -> list[np.ndarray]:
        """The averages, to save them."""
        return [average.numpy() for average in self._averages]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Sets the averages to what `numpy` returned."""
        for average, value in zip(self._averages, values, strict=True):
            average.assign(value)


def _move(averages: list[Any], variables: list[Any], share: tf.Tensor) -> None:
    for average, variable in zip(averages, variables):
        value = tf.convert_to_tensor(average)
        average.assign(value + share * (tf.convert_to_tensor(variable) - value))
