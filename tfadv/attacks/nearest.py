"""Attacks that look for the adversarial image nearest to the image: one run serves all eps."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Call, Images
from tfadv.attacks.gradient import is_adversarial
from tfadv.attacks.iterative import IterativeAttack
from tfadv.models.compiled import compiled_logits


class NearestImageAttack(IterativeAttack):
    """An iterative attack whose score is the distance of the nearest adversarial image that it has found.

    The search does not depend on eps.  It ends for an image that is adversarial within the smallest eps.
    """

    limited = False

    @property
    def takes_random(self) -> bool:
        """See `Attack.takes_random`; what it finds is not checked with new passes."""
        return False

    def with_targets(self, call: Call, images: Images, active: np.ndarray) -> Images:
        """The images with the classes that the attack approaches, if it chooses any; adds to `call.cost`.

        Args:
          call, images: as `attack_batch` has them.
          active: bool (N,), the images to attack.
        """
        return images

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`; one run for all eps."""
        images = Images(x, y, call.numbers, compiled_logits(call.model, x))
        call.cost.add(forwards=len(y))
        active = ~is_adversarial(images.logits, y, call.targeted).numpy()
        images = self.with_targets(call, images, active)
        bounds = call.bounds(tf.reduce_max(sizes), goal=tf.reduce_min(sizes))
        nearest, distances = self.run(call, images, active, bounds)
        return tf.where((distances <= sizes[:, None])[..., None, None, None], nearest, x)
