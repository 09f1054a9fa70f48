"""The cost of an attack, and the losses that it had to replace."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Cost:
    """The sum over all calls of attacks that get this object as their argument `cost`.

    The passes are counted and not estimated, because an image that is
    adversarial early costs less than another.  Images that XLA computes only
    because of its fixed shapes count as well.  Passes in bfloat16 count like those in float32.

    Attributes:
      gradients: images that went forward and backward through the model.
      forwards: images that went forward only.
      fallbacks: loss → loss that replaced it (see `losses.resolve_loss`).
      remaining: attack → list of int, one per eps: the images that were not yet adversarial after this part of
        `AutoAttack` or `Fast`.
    """

    gradients: int = 0
    forwards: int = 0
    fallbacks: dict[str, str] = dataclasses.field(default_factory=dict)
    remaining: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def add(self, gradients: int = 0, forwards: int = 0) -> None:
        """Counts more passes."""
        self.gradients += int(gradients)
        self.forwards += int(forwards)

    def add_fallback(self, loss: str, replacement: str) -> None:
        """Records the loss that replaced another; nothing where both are the same."""
        if replacement != loss:
            self.fallbacks[loss] = replacement

    def add_all(self, other: Cost) -> None:
        """Adds the cost of the same attack on other images."""
        self.add(other.gradients, other.forwards)
        self.fallbacks |= other.fallbacks
        for name, counts in other.remaining.items():
            before = self.remaining.get(name, [0] * len(counts))
            self.remaining[name] = [a + b for a, b in zip(before, counts, strict=True)]
