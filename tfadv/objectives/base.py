"""What training minimizes: `Objective`, and `as_objective` for plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss of each image; its fields are its settings.

    An update first calls `perturb`, whose gradients do not reach the weights, and then `loss`, which does.
    """

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor | None:
        """Computes adversarial images; None where the objective needs none.

        Args:
          model: callable from float32 (N, H, W, C) to logits (N, K); called with `training=False`.
          x: float32 (N, H, W, C) in [0, 1].
          y: int64 (N,).
          eps: float32 () or, one per image, (N, 1, 1, 1); in units of a [0, 1] pixel.
          seed: int64 (2,), different for each batch.

        Returns:
          float32 (M, H, W, C) in [0, 1], for the first M images; or None.
        """
        return None

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each image and the logits that count for the training accuracy; calls the model once.

        Args:
          model: as in `perturb`; called with `training=True`.
          x: float32 (N, H, W, C) in [0, 1].
          y: int64 (N,).
          adversarial: what `perturb` returned.

        Returns:
          (losses float32 (N,), logits float32 (N, K)).
        """
        raise NotImplementedError

    @property
    def is_adversarial(self) -> bool:
        """Whether it trains on adversarial images, so that the epoch to keep is chosen by robust accuracy."""
        return False

    def robust(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """bool (N,): images classified correctly, also under the attack that chooses the epoch to keep.

        Arguments as in `perturb`.
        """
        raise NotImplementedError

    @property
    def cost(self) -> float:
        """Forward and backward passes per image of a batch: one for the update, and those of the attack."""
        return 1.0

    @property
    def replays(self) -> int:
        """The number of updates per batch; each uses `next_adversarial` of the one before."""
        return 1

    def next_adversarial(self, x: tf.Tensor, adversarial: tf.Tensor, gradient: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """The adversarial images of the next update of the same batch, where `replays` is above 1.

        Args:
          x: float32 (N, H, W, C) in [0, 1].
          adversarial: those of the last update, as `perturb` returns them.
          gradient: of the loss at `adversarial`, of the same shape.
          eps: as in `perturb`.
        """
        raise NotImplementedError

    @property
    def validation_cost(self) -> float:
        """Gradients per validation image, in each epoch: those of `robust`."""
        return 0.0

    @property
    def weight_perturbation(self) -> float:
        """How far the update's gradient is computed from the weights, relative to their norm; see `training.awp`."""
        return 0.0

    @property
    def needs_helper(self) -> bool:
        """Whether the objective uses the model as it was when training started; see `with_helper`."""
        return False

    @property
    def needs_mixed_samples(self) -> bool:
        """Whether batches must alternate clean images and stored adversarial images of other models."""
        return False

    @property
    def train_eps(self) -> float | None:
        """The perturbation size to train against; None means that of the training run, which validation uses."""
        return None

    def with_helper(self, helper: Any) -> Objective:
        """The same objective with a helper, a callable like the model whose weights never change."""
        return self

    def stronger(self) -> Objective | None:
        """The objective to fall back to where training with this one has collapsed; None where there is none."""
        return None


@dataclasses.dataclass(frozen=True)
class FunctionObjective(Objective):
    """A plain function as an objective.

    Attributes:
      function: `function(model, x, y) -> (losses, logits)`.
    """

    function: Callable[[Any, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Objective.loss`."""
        return self.function(model, x, y)


def as_objective(objective: Objective | Callable) -> Objective:
    """The objective itself, or a plain function as one."""
    return objective if isinstance(objective, Objective) else FunctionObjective(objective)
