"""Built models for reuse: tracing and compiling a deep network takes longer than many an epoch on few images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

AFFECTS_RESULTS = False


@dataclasses.dataclass
class PooledModel:
    """A built model, for one user at a time.

    Attributes:
      model: the model.
      initial_weights: the weights it was built with.
      content: the content hash of the artifact whose weights it has, or None.
      trainers: compiled trainers of this model, by objective and weight decay.
    """

    model: keras.Model
    initial_weights: list[np.ndarray]
    content: str | None = None
    trainers: dict[Any, Any] = dataclasses.field(default_factory=dict)
    in_use: bool = False


class ModelPool:
    """The models of a session.

    All variants of an architecture share few instances, so that compiled steps and
    attacks serve all of them; but an instance has one user at a time.
    """

    def __init__(self) -> None:
        """Starts without any model."""
        self._models: dict[str, list[PooledModel]] = {}

    @contextlib.contextmanager
    def borrow(self, name: str, build: Callable[[], keras.Model], content: str | None = None) -> Iterator[PooledModel]:
        """Lends an instance.

        Args:
          name: of the architecture.
          build: builds an instance with its initial weights, where none is free.
          content: the content hash of the weights wanted: an instance that has them is preferred.

        Yields:
          The instance; its weights are arbitrary unless its `content` is the one wanted.
        """
        instances = self._models.setdefault(name, [])
        free = [entry for entry in instances if not entry.in_use]
        matching = [entry for entry in free if content is not None and entry.content == content]
        if not free:
            model = build()
            free = [PooledModel(model, model.get_weights())]
            instances.append(free[0])
        entry = (matching or free)[0]
        entry.in_use = True
        try:
            yield entry
        finally:
            entry.in_use = False
