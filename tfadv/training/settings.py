"""How a run of training goes: `TrainingSettings`."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence

from tfadv.datasets import AUGMENTATIONS
from tfadv.errors import check_name, check_whole_number


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How one run trains.

    Attributes:
      epochs: maximum number of epochs, where `steps` is 0.
      batch_size: images per step, on all devices together.
      learning_rate: the peak; see `warmup_cosine`.
      patience: epochs without higher validation accuracy before training stops.
      seed: int, for the order and augmentation of the images.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
      eps: size of the perturbation of defenses that attack, in units of a [0, 1] pixel, unless they have their own.
      average: decay per step of the moving average of the weights that is validated and kept in place of the weights
        themselves; 0 keeps the weights.
      steps: number of optimizer steps, all of which are taken; the last epoch may be incomplete.  0 means `epochs`.
      keep_start: whether the weights that training starts from are a candidate for the epoch that is kept, as they are
        with defenses that attack in any case.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int = 0
    augmentations: Sequence[str] = ()
    eps: float = 0.0
    average: float = 0.0
    steps: int = 0
    keep_start: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", None)):
            check_whole_number(name, getattr(self, name), least)
        if not isinstance(self.learning_rate, numbers.Real) or not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate must be a number above 0, the peak of its schedule, got {self.learning_rate!r}."
            )
        if not isinstance(self.augmentations, (list, tuple)) or not all(isinstance(n, str) for n in self.augmentations):
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentations must be a list of names, got {self.augmentations!r}. Known: {known}.")
        for name in self.augmentations:
            check_name("augmentation", name, AUGMENTATIONS)
        if not isinstance(self.average, numbers.Real) or not 0 <= self.average < 1:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}.")
