"""The learning rate of each step."""

from __future__ import annotations

import math

WARMUP_SHARE = 0.1  # of all steps


def warmup_cosine(step: int, *, peak: float, total: int) -> float:
    """Linear from 0 to the peak over the first tenth of the steps, then half a cosine down to 0.

    This is a function of the step and not a Keras schedule, which would build
    the number of steps into the compiled step; that number differs between recipes.

    Args:
      step: counted from 0.
      peak: the greatest learning rate.
      total: number of all steps.
    """
    warmup = int(WARMUP_SHARE * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
