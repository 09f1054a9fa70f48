"""The learning rate, step by step."""

import math

WARMUP_SHARE = 0.1  # of all steps


def warmup_cosine(step, *, peak, total):
    """float: linear from 0 to the peak over the first tenth of the steps, then half a cosine to 0.

    A function of the step and not a Keras schedule: one of those would bake
    the number of steps into the compiled step, and each variant has its own.

    Args:
      step: int, counted from 0.
      peak: float.
      total: int, all steps.
    """
    warmup = int(WARMUP_SHARE * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
