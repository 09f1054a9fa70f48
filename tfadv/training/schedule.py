"""The learning rate and the perturbation size of each step."""

from __future__ import annotations

import math

WARMUP_SHARE = 0.1  # of all steps


def warmup_cosine(step: int, *, peak: float, total: int) -> float:
    """Linear from 0 to the peak over the first tenth of the steps, then half a cosine down to 0.

    This is a function of the step and not a Keras schedule, which would build
    the number of steps into the compiled step; that number differs between defenses.

    Args:
      step: counted from 0.
      peak: the greatest learning rate.
      total: number of all steps.
    """
    warmup = int(WARMUP_SHARE * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


CLEAN_SHARE, RAMP_SHARE = 0.1, 0.4  # of all steps


def delayed_ramp(step: int, *, peak: float, total: int) -> float:
    """0 for the first tenth of the steps, then linear up to the peak over the next four tenths, then the peak.

    Adversarial training from clean weights keeps more clean accuracy if eps grows (Jeddi et al. 2020,
    https://arxiv.org/abs/2012.13628).

    Args:
      step: counted from 0.
      peak: the greatest eps.
      total: number of all steps.
    """
    start, length = CLEAN_SHARE * total, RAMP_SHARE * total
    return peak * min(1.0, max(0.0, (step - start) / length))
