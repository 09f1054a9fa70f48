"""Which epoch of a training run is kept: `Best`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Best:
    """The best epoch so far and its weights, as Keras' EarlyStopping finds it.

    Attributes:
      value: the highest value so far; None before the first epoch.
      epoch: its number, from 1; 0 is the model that training started from.
      weights: the weights of that epoch.
      wait: epochs since then.
    """

    def __init__(self, patience: int | None) -> None:
        """`patience`: epochs without a higher value after which training ends; None: all epochs are trained."""
        self._patience = patience
        self.value: float | None = None
        self.epoch, self.wait = 0, 0
        self.weights: list[np.ndarray] = []

    def update(self, epoch: int, value: float, weights: Callable[[], list[np.ndarray]]) -> None:
        """Takes the value of an epoch; the first one and any higher one is kept."""
        self.wait += 1
        if self.value is None or value > self.value:
            self.value, self.epoch, self.wait, self.weights = value, epoch, 0, weights()

    @property
    def ends(self) -> bool:
        """Whether there has been no higher value for so many epochs."""
        return self._patience is not None and self.wait >= self._patience

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(JSON values, arrays), from which `restore` continues."""
        values = {"wait": self.wait, "best": self.value, "best_epoch": self.epoch}
        return values, {f"best{i}": a for i, a in enumerate(self.weights)}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned."""
        self.wait, self.value, self.epoch = values["wait"], values["best"], values["best_epoch"]
        self.weights = [arrays[f"best{i}"] for i in range(sum(name.startswith("best") for name in arrays))]
