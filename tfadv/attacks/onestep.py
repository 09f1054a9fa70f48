"""The one-step target class method (Kurakin et al. 2016, https://arxiv.org/abs/1611.01236; the paper's eq. 2)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfadv.attacks.base import Attack, Call, precision_setting
from tfadv.attacks.fgsm import FGSM
from tfadv.attacks.targets import TARGETS, choose_targets
from tfadv.specs import setting


@dataclasses.dataclass(frozen=True)
class OneStep(Attack):
    """One step to another class: clip(x - eps · sign ∇ J(x, target)).

    For targets of your own: `FGSM(targeted=True)(model, x, targets, eps)`.

    Attributes:
      target: "least-likely" or "random" (`targets.choose_targets`).
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    target: str = setting("least-likely", choices=TARGETS)
    precision: str = precision_setting()

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`."""
        target = choose_targets(self.target, call.model, x, y, call.seed, call.numbers)
        call.cost.add(forwards=len(y))
        return FGSM(targeted=True).attack_batch(call, x, target, sizes)
