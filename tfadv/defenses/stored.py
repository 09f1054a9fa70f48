"""Defenses that train on stored adversarial images, computed by FGSM before training (Ali, Raza, Gan; section 3)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfadv.defenses.base import Defense
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class Surrogate(Defense):
    """Clean images and the surrogate's adversarial images of them, one per eps."""

    full_name: ClassVar[str] = "Surrogate's images"
    images: ClassVar = "stored"


@dataclasses.dataclass(frozen=True)
class Rounds(Defense):
    """The paper's method again and again: each round stores adversarial images of the model that it starts from.

    Rounds 1, 2, 4, 8 and so on and the last one are evaluated.

    Attributes:
      number: how many rounds there are.
      size: training images per round, drawn anew for each, equally many of each class, with the same share of the
        validation images; 0 takes all images.
      ramp: number of rounds over which eps of the training images grows to its full size; 0 takes the full size in all
        rounds.  Helps where training against the full size from the start ends in guessing.
      round: one round alone, from 1; 0 means all of them.
    """

    full_name: ClassVar[str] = "Own images"
    images: ClassVar = "stored"

    number: int = setting(3, least=1, most=500)
    size: int = setting(0, least=0)
    ramp: int = setting(0, least=0, most=500)
    round: int = setting(0, least=0, most=500)

    def of_round(self, number: int) -> Rounds:
        """One of the rounds."""
        return dataclasses.replace(self, round=number)

    @property
    def is_evaluated(self) -> bool:
        """Whether this round is attacked and reported, and not only the start of the next one."""
        return self.round >= self.number or self.round.bit_count() == 1

    @property
    def eps_share(self) -> float:
        """The share of eps that the stored images of this round have."""
        return min(1.0, self.round / self.ramp) if self.ramp else 1.0

    @property
    def summary(self) -> str:
        """See `Defense.summary`."""
        return "trained further from the round before; clean images and adversarial images of that model; augmentation"
