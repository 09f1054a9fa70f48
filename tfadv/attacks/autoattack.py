"""AutoAttack (Croce & Hein 2020, https://arxiv.org/abs/2003.01690): four attacks, the worst of them for each image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfadv.attacks.apgd import APGD
from tfadv.attacks.base import precision_setting
from tfadv.attacks.fab import FAB
from tfadv.attacks.iterative import IterativeAttack
from tfadv.attacks.norms import NORMS
from tfadv.attacks.square import Square
from tfadv.attacks.sweep import AttackOfParts, Sweep
from tfadv.specs import setting

L1_RESTARTS, L1_TARGETS = 5, 5  # of APGD in L1, as in auto-attack (Croce & Hein 2021)
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
PARTS = (*STANDARD, "apgd-dlr", "fab")


@dataclasses.dataclass(frozen=True)
class AutoAttack(AttackOfParts):
    """APGD-CE, APGD-T, FAB-T and Square Attack, in this order, with their standard settings.

    Each attack runs only on the images that are not yet adversarial, regrouped into
    full batches, so pass many images at once.  An image that is adversarial at one
    eps counts as adversarial at all larger ones, and FAB runs once for all eps.
    `Cost.remaining` holds the number of images that each attack left.

    Attributes:
      norm: "linf", "l2" or "l1".
      attacks: some of `PARTS`, in the order in which they run; or their names joined by "+".
      steps: number of steps of APGD and FAB.
      restarts: number of restarts of each attack (and target); in L1, APGD-CE and APGD-DLR take five times as many.
      targets: number of target classes of APGD-T and FAB-T; at most K - 1 are used, and in L1 at most 5 by APGD-T.
      queries: number of queries of Square Attack.
      precision: "float32" or "mixed_bfloat16", of the search; FAB always searches in float32, and which images are
        adversarial is decided in float32.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    attacks: tuple[str, ...] = setting(STANDARD, choices=PARTS)
    steps: int = setting(100, least=1)
    restarts: int = setting(1, least=1)
    targets: int = setting(9, least=1)
    queries: int = setting(5000, least=1)
    precision: str = precision_setting()

    @property
    def uses_gradient(self) -> bool:  # type: ignore[override]  # the same for all settings of other attacks
        """See `Attack.uses_gradient`; that of its parts."""
        return any(self.part(name).uses_gradient for name in self.attacks)

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`; all parts must do."""
        return all(self.part(name).takes_random for name in self.attacks)

    @property
    def revision(self) -> int:  # type: ignore[override]  # the same number for all settings of other attacks
        """See `Attack.revision`: before, the random starts of FAB were within half of the smallest eps."""
        return int(self.restarts > 1 and any(name.startswith("fab") for name in self.attacks))

    @property
    def loss(self) -> str:
        """Of several: the one whose gradient the check for masking looks at."""
        return "ce" if {*self.attacks} - {"square"} == {"apgd-ce"} else "cw"

    def part(self, name: str) -> IterativeAttack:
        """One of the attacks, with its settings."""
        common: dict[str, Any] = {"norm": self.norm, "restarts": self.restarts}
        if name.startswith("fab"):
            return FAB(steps=self.steps, targets=self.targets if name == "fab-t" else 0, **common)
        common["precision"] = self.precision
        if name == "square":
            return Square(steps=self.queries, **common)
        losses = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-t"}
        apgd = APGD(loss=losses[name], steps=self.steps, targets=self.targets, **common)
        if self.norm != "l1":
            return apgd
        if name == "apgd-t":
            return dataclasses.replace(apgd, targets=min(self.targets, L1_TARGETS))
        return dataclasses.replace(apgd, restarts=self.restarts * L1_RESTARTS)

    def number_of_parts(self) -> int:
        """See `AttackOfParts.number_of_parts`."""
        return len(self.attacks)

    def parts(self, sweep: Sweep, eps: tf.Tensor) -> Iterator[tuple[str, int]]:
        """See `AttackOfParts.parts`."""
        for name in self.attacks:
            part = self.part(name)
            if isinstance(part, FAB):
                sweep.run_for_all_eps(name, part, eps)
            else:
                sweep.run(part, eps)
            yield name, int(sweep.remaining.sum())
