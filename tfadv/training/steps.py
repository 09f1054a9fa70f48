"""The compiled steps of training: one update, and the validation of one batch, clean and under PGD."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfadv.objectives.base import Objective
from tfadv.runtime.compilation import use_xla
from tfadv.runtime.devices import Devices
from tfadv.training.awp import perturbed_weights

_EPS_STREAM = 1  # of the step's seed; objectives draw from the seed itself


class Steps:
    """The steps of one network, compiled once for each objective and kept for all runs.

    Tracing and optimizing the graph of a deep network takes longer than an epoch on few images.
    """

    def __init__(self, network: keras.Model, optimizer: keras.optimizers.Optimizer, devices: Devices) -> None:
        """`network` and `optimizer`: built in the scope of the devices' strategy."""
        self._network, self._optimizer, self._devices = network, optimizer, devices
        self._compiled: dict[tuple, Callable[..., tf.Tensor]] = {}

    def train(
        self,
        objective: Objective,
        x: Any,
        y: Any,
        eps: float = 0.0,
        seed: tuple[int, int] = (0, 0),
        uniform: bool = False,
    ) -> tf.Tensor:
        """Updates the weights by one batch.

        Args:
          objective: what to minimize.
          x, y: float32 (N, H, W, C) and int64 (N,), from `Devices.distribute`.
          eps: size of the perturbation of an adversarial objective.
          seed: of its random numbers.
          uniform: whether the size of each image's perturbation is drawn, uniformly from 0 to eps.

        Returns:
          float64 (3,): sum of the losses, correct images, images.
        """
        step = self._step(self._train_slice, objective, uniform)
        return step(x, y, tf.constant(eps, tf.float32), tf.constant(seed, tf.int64))

    def validate(self, x: Any, y: Any, weights: Any) -> tf.Tensor:
        """float64 (3,): sum of the cross-entropies, correct images, images; `weights` (N,) are 1 or 0."""
        return self._step(self._validate_slice)(x, y, weights)

    def robust(self, objective: Objective, x: Any, y: Any, weights: Any, eps: float) -> tf.Tensor:
        """float64 (2,): images that are correct clean and under the objective's PGD of size eps, images."""
        return self._step(self._robust_slice, objective)(x, y, weights, tf.constant(eps, tf.float32))

    def _step(self, function: Callable[..., tf.Tensor], *static: Any) -> Callable[..., tf.Tensor]:
        key = (function.__name__, *static)
        if key not in self._compiled:
            self._compiled[key] = self._devices.reduce(functools.partial(function, *static), jit_compile=use_xla())
        return self._compiled[key]

    def _train_slice(
        self, objective: Objective, uniform: bool, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        if objective.is_adversarial and self._devices.replicas > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(seed, replica)
        if uniform:
            stream = tf.random.experimental.stateless_fold_in(seed, _EPS_STREAM)
            eps *= tf.random.stateless_uniform((x.shape[0], 1, 1, 1), stream)
        adversarial = objective.perturb(self._network, x, y, eps, seed)
        for replay in range(objective.replays):
            losses, logits, gradient = self._update(objective, x, y, adversarial)
            if replay + 1 < objective.replays:
                assert adversarial is not None
                adversarial = objective.next_adversarial(x, adversarial, gradient, eps)
        # Each device has updated BatchNorm's statistics from its own slice.
        self._devices.average([v for v in self._network.non_trainable_variables if v.dtype == "float32"])
        return _sums(losses, logits, y, tf.ones_like(losses))

    def _update(
        self, objective: Objective, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """(losses, logits, gradient of the loss at the adversarial images where they are replayed)."""
        # The optimizer sums over the devices.
        images = x.shape[0] * self._devices.replicas
        variables, replayed = self._network.trainable_variables, objective.replays > 1

        def mean_loss() -> tf.Tensor:
            return tf.reduce_sum(objective.loss(self._network, x, y, adversarial)[0]) / images

        with perturbed_weights(self._network, mean_loss, objective.weight_perturbation, self._devices):
            with tf.GradientTape() as tape:
                if replayed:
                    tape.watch(adversarial)
                losses, logits = objective.loss(self._network, x, y, adversarial)
                loss = tf.reduce_sum(losses) / images
            gradients, at_images = tape.gradient(loss, (variables, adversarial if replayed else []))
        if variables:
            self._optimizer.apply(gradients, variables)
        return losses, logits, at_images if replayed else None

    def _robust_slice(
        self, objective: Objective, x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor, eps: tf.Tensor
    ) -> tf.Tensor:
        robust = tf.cast(objective.robust(self._network, x, y, eps), tf.float64) * tf.cast(weights, tf.float64)
        return tf.reduce_sum(tf.stack([robust, tf.cast(weights, tf.float64)]), axis=1)

    def _validate_slice(self, x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        logits = self._network(x, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return _sums(losses, logits, y, weights)


def _sums(losses: tf.Tensor, logits: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    correct = tf.cast(tf.argmax(logits, axis=1) == y, tf.float32)
    rows = tf.cast(tf.stack([losses * weights, correct * weights, weights]), tf.float64)
    return tf.reduce_sum(rows, axis=1)
