"""A fast evaluation: targeted APGD where it is likely to succeed, and Square Attack on a sample of the images.

The order of the targets is that of the minimum-margin attack (Gao et al. 2022,
https://proceedings.mlr.press/v162/gao22b.html); leaving the images that are far from giving in is an idea of A3 (Liu et
al. 2022, https://arxiv.org/abs/2203.05154).  Here a fixed limit decides, and not a rank among the other images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.apgd import APGD
from tfadv.attacks.base import Call, precision_setting
from tfadv.attacks.norms import NORMS
from tfadv.attacks.randomness import SAMPLE, drawn
from tfadv.attacks.square import Square
from tfadv.attacks.sweep import AttackOfParts, Sweep
from tfadv.attacks.targets import most_likely_others
from tfadv.specs import setting

LIKELIEST = 3  # targets that are tried on every image
ALL = 9  # targets, as in AutoAttack
NEAR = 0.3  # the margin, as DLR measures it, up to which an image may give in to another target
SAMPLED = 0.1  # the share of the images that Square Attack is run on
LONGER = 5  # times as many queries where gradients are masked: as many as in AutoAttack


@dataclasses.dataclass(frozen=True)
class Fast(AttackOfParts):
    """Nearly the robust accuracy of `AutoAttack` at about a tenth of its cost.

    Its parts, each on the images that remain:

    1. APGD-CE.
    2. Targeted APGD on DLR with the three most likely other classes.
    3. The same with the next six classes, on the images whose margin part 2 has made small.  The others are given up.
    4. Square Attack on a random tenth of the images.  If it fools one of them, the gradients are masked: then part 3 is
       run on the images that were given up, and Square Attack, with five times as many queries, on all that remain in
       the call.  Where one of the tenth has no gradient, Square Attack is run in this way on all at once.  With masked
       gradients, the cost is near that of AutoAttack, and the result depends on which images are attacked together.

    `Cost.remaining` holds the number of images that each part left: "apgd-ce", "apgd-t", "other targets" and "square".
    In it, "sample" counts the images that part 4 began with, and "given up" those that stayed so.

    Attributes:
      norm: "linf", "l2" or "l1".
      steps: number of steps of APGD (for each target).
      queries: number of queries of Square Attack on the sample.
      precision: "float32" or "mixed_bfloat16", of the search; which images are adversarial is decided in float32.
    """

    norm: str = setting("linf", choices=tuple(NORMS))
    steps: int = setting(50, least=1)
    queries: int = setting(1000, least=1)
    precision: str = precision_setting()

    joint = True
    loss = "dlr-t"  # of several: the one whose gradient the check for masking looks at

    def number_of_parts(self) -> int:
        """See `AttackOfParts.number_of_parts`."""
        return 6

    def parts(self, sweep: Sweep, eps: tf.Tensor) -> Iterator[tuple[str, int]]:
        """See `AttackOfParts.parts`."""
        common: dict[str, Any] = {"norm": self.norm, "precision": self.precision}
        targeted = APGD(loss="dlr-t", steps=self.steps, **common)
        short, long = (Square(steps=queries, **common) for queries in (self.queries, LONGER * self.queries))
        sweep.run(APGD(loss="ce", steps=self.steps, **common), eps)
        yield "apgd-ce", int(sweep.remaining.sum())

        scores = sweep.run(dataclasses.replace(targeted, targets=LIKELIEST), eps)
        yield "apgd-t", int(sweep.remaining.sum())

        # A score of inf, of a random model, is that of an image which one search had found.
        given_up = sweep.remaining & (scores > NEAR) & np.isfinite(scores) & (sweep.logits.shape[1] - 1 > LIKELIEST)
        self._try_other_targets(sweep, targeted, eps, ~given_up)
        yield "other targets", int(sweep.remaining.sum())

        sampled = sweep.remaining & sample(sweep.call)
        no_gradient = sweep.lacks_gradient(sampled)
        if no_gradient or not sampled.any():  # a tenth of few images
            sampled = sweep.remaining.copy()
        yield "sample", int(sampled.sum())
        sweep.run(long if no_gradient else short, eps, sampled)
        if (sampled & ~sweep.remaining).any():
            self._try_other_targets(sweep, targeted, eps, given_up)
            sweep.run(long, eps, ~sampled if no_gradient else None)
            given_up[:] = False
        yield "given up", int((sweep.remaining & given_up).sum())
        yield "square", int(sweep.remaining.sum())

    def _try_other_targets(self, sweep: Sweep, targeted: APGD, eps: tf.Tensor, among: np.ndarray) -> None:
        """Attacks those among the images that remain with the targets after the `LIKELIEST`."""
        others = most_likely_others(tf.constant(sweep.logits), sweep.images.y).numpy()
        if others.shape[1] > LIKELIEST:
            later = sweep.logits.copy()
            np.put_along_axis(later, others[:, :LIKELIEST], -np.inf, axis=1)
            attack = dataclasses.replace(targeted, targets=min(ALL, others.shape[1]) - LIKELIEST)
            sweep.run(attack, eps, among, order=later)


def sample(call: Call) -> np.ndarray:
    """bool (N,): a random tenth of the images of a call; depends on their numbers and the seed alone."""
    first = np.zeros(len(call.numbers), np.int64)
    return drawn(lambda generator: generator.random(1), call.seed, SAMPLE, call.numbers, first)[:, 0] < SAMPLED
