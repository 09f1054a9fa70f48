"""Decoupled direction and norm: the nearest adversarial image in L2 (Rony et al. 2018, https://arxiv.org/abs/1811.09600)."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.base import Bounds, Call, Images
from tfadv.attacks.fmn import FMN, Found, State, unit
from tfadv.attacks.norms import L2
from tfadv.specs import setting

CHANGE = 0.05  # γ: the share by which the radius grows or shrinks


@dataclasses.dataclass(frozen=True)
class DDN(FMN):
    """Follows the gradient of the cross-entropy on a sphere around x that shrinks and grows.

    Like `FMN`, one run is enough for all eps.  The images are not rounded to 256 levels, and one without a gradient
    stays where it is.

    Attributes:
      norm: "l2".
      steps: maximum number of gradients per image.
      targeted: True moves the images to class y instead of away from it.
    """

    norm: str = setting("l2", choices=("l2",))

    loss = "ce"

    def with_targets(self, call: Call, images: Images, active: np.ndarray) -> Images:
        """See `NearestImageAttack.with_targets`; none."""
        return images

    def objective(self, logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
        """See `FMN.objective`."""
        return tf.where(targeted, -1.0, 1.0) * losses.cross_entropy(logits, y)

    def first_radius(self, x: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """See `FMN.first_radius`."""
        return tf.fill([len(x)], unit(x, bounds))

    def next_radius(self, state: State, found: Found, change: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """See `FMN.next_radius`."""
        return state.radius * tf.where(found.adversarial, 1 - CHANGE, 1 + CHANGE)

    def limited_to(self, radius: tf.Tensor, moved: tf.Tensor, x: tf.Tensor, bounds: Bounds) -> tf.Tensor:
        """See `FMN.limited_to`; on the sphere, not within."""
        at = x + radius[:, None, None, None] * L2.steepest_ascent(moved - x)
        return tf.clip_by_value(at, bounds.low, bounds.high)
