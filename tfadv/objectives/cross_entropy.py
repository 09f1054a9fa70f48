"""Standard training: the cross-entropy of the images as they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.objectives.base import Objective


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Objective):
    """-log softmax(model(x))_y."""

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`."""
        logits = model(x, training=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits), logits
