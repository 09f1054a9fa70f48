"""Ensemble adversarial training (Tramèr et al. 2018, https://arxiv.org/abs/1705.07204)."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfadv.attacks.gradient import logits_and_gradient, sign
from tfadv.errors import UserError
from tfadv.objectives.adversarial import AdversarialObjective


@dataclasses.dataclass(frozen=True)
class Ensemble(AdversarialObjective):
    """Cross-entropy of clean images, stored adversarial images of other models, and own adversarial images.

    Batches alternate clean and stored adversarial images (`tfadv.datasets.batches.MixedSamples`).  Some of the clean
    ones are replaced by adversarial images of the model itself: R+FGSM, a random step of eps / 2 and then a step of
    eps / 2 along the sign of the gradient.

    Attributes:
      share: the share of each batch that is attacked, above 0; at most 1/2, because half of the batch is clean.
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share > 0.5:
            raise ValueError(f"share must be at most 0.5, the share of the clean images, got {self.share}.")

    @property
    def needs_mixed_samples(self) -> bool:
        """True."""
        return True

    def _attacked(self, batch: int) -> tf.Tensor:
        """The positions of the images that are attacked, int32 (M, 1), in a batch of that size."""
        return tf.range(0, batch, 2)[: max(1, round(self.share * batch)), None]

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Attacks the first of the clean images of the batch.

        Raises:
          UserError: the batch size is odd.
        """
        if x.shape[0] % 2:
            raise UserError(f"ensemble needs an even number of images per device and step, got {x.shape[0]}.")
        rows = self._attacked(x.shape[0])
        return self.attack(
            model,
            tf.gather_nd(x, rows),
            tf.gather_nd(y, rows),
            tf.gather_nd(eps, rows) if eps.shape.rank else eps,
            seed,
        )

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `AdversarialObjective.attack`; R+FGSM with α = eps / 2 (section 4.1 of the paper)."""
        half = eps / 2
        noise = sign(tf.random.stateless_normal(tf.shape(x), seed))
        start = tf.clip_by_value(x + half * noise, 0.0, 1.0)
        _, gradient = logits_and_gradient(model, start, y)
        return tf.clip_by_value(start + half * sign(gradient), 0.0, 1.0)

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The cross-entropy of the batch, some of whose clean images are replaced by adversarial ones."""
        assert adversarial is not None
        images = tf.tensor_scatter_nd_update(x, self._attacked(x.shape[0]), adversarial)
        return self.losses_of(model(images, training=True), y)
