"""The momentum iterative FGSM (Dong et al. 2017, https://arxiv.org/abs/1710.06081)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfadv.attacks.pgd import IteratedGradient
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class MIFGSM(IteratedGradient):
    """Steps along the sign of a running sum of gradients, each divided by its own L1 norm.

    Algorithm 1: g ← decay · g + ∇ / ||∇||₁, x ← x + step_size · sign(g).  The sum
    keeps its direction where single gradients fluctuate, and so transfers better to
    other models.  With decay 0 it is `BIM`.

    Attributes:
      decay: how much of the sum is kept at each step.
      steps, early_stop, targeted: see `IteratedGradient`.
      step_size: in units of x; None means eps / steps, as in the paper.
    """

    decay: float = setting(1.0, least=0)

    def traced(self) -> MIFGSM:
        """See `IterativeAttack.traced`."""
        return dataclasses.replace(self, steps=1, step_size=None, targeted=False, precision="float32", decay=0.0)

    def default_step_size(self, eps: tf.Tensor) -> tf.Tensor:
        """See `IteratedGradient.default_step_size`."""
        return eps / self.steps
