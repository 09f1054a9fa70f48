"""Defenses that train on clean images only, and the user's own model as it is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfadv.defenses.base import Defense


@dataclasses.dataclass(frozen=True)
class First(Defense):
    """What the other defenses of a model start from."""

    start: ClassVar[str | None] = None
    stage: ClassVar[str] = "train"
    augment: ClassVar[bool] = False
    uses_budget: ClassVar[bool] = False
    color: ClassVar[str] = "#D55E00"
    marker: ClassVar[str] = "o"


@dataclasses.dataclass(frozen=True)
class Original(First):
    """A model of the user's own as it is: nothing is trained."""

    full_name: ClassVar[str] = "Original"

    @property
    def summary(self) -> str:
        """See `Defense.summary`."""
        return "your own model as it is"


@dataclasses.dataclass(frozen=True)
class Control(Defense):
    """Further training on augmented clean images: what training alone brings, without any adversarial image."""

    full_name: ClassVar[str] = "Clean control"
