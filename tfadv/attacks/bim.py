"""The basic iterative method (Kurakin et al. 2016, https://arxiv.org/abs/1607.02533; the paper's eq. 3)."""

from __future__ import annotations

import dataclasses

from tfadv.attacks.pgd import IteratedGradient


@dataclasses.dataclass(frozen=True)
class BIM(IteratedGradient):
    """FGSM in several small steps from x, each clipped to within eps: `PGD` in L-infinity without a random start.

    Attributes:
      steps, early_stop, targeted: see `IteratedGradient`.
      step_size: in units of x; None means eps / 4.
    """
