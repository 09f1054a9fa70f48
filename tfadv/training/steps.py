"""The compiled steps of training: one update, and the validation of one batch, clean and robust."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfadv.defenses.base import Defense
from tfadv.defenses.online import sizes_of_images
from tfadv.runtime.compilation import use_xla
from tfadv.runtime.devices import Devices
from tfadv.training.awp import perturbed_weights

_FIRST_PART_STREAM = 2  # of the step's seed; defenses draw from the seed itself where a batch is one part


class Steps:
    """The steps of one network, compiled once for each defense and kept for all runs.

    Tracing and optimizing the graph of a deep network takes longer than an epoch on few images.
    """

    def __init__(
        self, network: keras.Model, optimizer: keras.optimizers.Optimizer, devices: Devices, batch_parts: int = 1
    ) -> None:
        """Compiles nothing yet.

        Args:
          network, optimizer: built in the scope of the devices' strategy.
          devices: where the steps run.
          batch_parts: each device processes its slice of a batch in this many equal parts, see `train`.
        """
        self._network, self._optimizer, self._devices = network, optimizer, devices
        self._parts = batch_parts
        self._compiled: dict[tuple, Callable[..., tf.Tensor]] = {}

    def train(
        self,
        defense: Defense,
        x: Any,
        y: Any,
        eps: float = 0.0,
        seed: tuple[int, int] = (0, 0),
        uniform: bool = False,
    ) -> tf.Tensor:
        """Updates the weights by one batch.

        Where there are several parts, they go through the network one after the other, and the update uses the sum of
        their gradients.  Each part has its own BatchNorm statistics and random numbers, and a defense with a `share`
        attacks this share of each part, rounded to whole images.

        Args:
          defense: its attack and its loss.
          x, y: float32 (N, H, W, C) and int64 (N,), from `Devices.distribute`.
          eps: size of the perturbation of a defense that attacks.
          seed: of its random numbers.
          uniform: whether the size of each image's perturbation is drawn, uniformly from 0 to eps.

        Returns:
          float64 (3,): sum of the losses, correct images, images.
        """
        step = self._step(self._train_slice, defense.step_only(), uniform)
        return step(x, y, tf.constant(eps, tf.float32), tf.constant(seed, tf.int64))

    def validate(self, x: Any, y: Any, weights: Any) -> tf.Tensor:
        """float64 (3,): sum of the cross-entropies, correct images, images; `weights` (N,) are 1 or 0."""
        return self._step(self._validate_slice)(x, y, weights)

    def robust(self, defense: Defense, x: Any, y: Any, weights: Any, eps: float) -> tf.Tensor:
        """float64 (2,): images that are robust, see `Defense.robust`, at this eps, images."""
        return self._step(self._robust_slice, defense.step_only())(x, y, weights, tf.constant(eps, tf.float32))

    def _step(self, function: Callable[..., tf.Tensor], *static: Any) -> Callable[..., tf.Tensor]:
        # A layer may have been frozen since the last run.
        key = (function.__name__, *static, *(id(v) for v in self._network.trainable_variables))
        if key not in self._compiled:
            self._compiled[key] = self._devices.reduce(functools.partial(function, *static), jit_compile=use_xla())
        return self._compiled[key]

    def _train_slice(
        self,
        defense: Defense,
        uniform: bool,
        x: tf.Tensor,
        y: tf.Tensor,
        eps: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        if defense.attacks and self._devices.replicas > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(seed, replica)
        if uniform:
            eps = sizes_of_images(eps, x.shape[0], seed)
        x, y, eps = (self._in_parts(tensor) for tensor in (x, y, eps))

        def perturb(x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, stream: tf.Tensor) -> Any:
            own_seed = tf.random.experimental.stateless_fold_in(seed, stream) if self._parts > 1 else seed
            adversarial = defense.perturb(self._network, x, y, eps, own_seed)
            return (), [] if adversarial is None else [adversarial]

        streams = _FIRST_PART_STREAM + tf.range(self._parts)
        _, adversarial = self._over_parts(perturb, x, y, eps, streams)  # a list of one or none
        losses, logits = self._update(defense, x, y, *adversarial)
        # Each device has updated BatchNorm's statistics from its own slice.
        self._devices.average([v for v in self._network.non_trainable_variables if v.dtype == "float32"])
        losses, logits, y = (tf.reshape(t, (-1, *t.shape[2:])) for t in (losses, logits, y))
        return _sums(losses, logits, y, tf.ones_like(losses))

    def _update(self, defense: Defense, *batch: tf.Tensor) -> list[tf.Tensor]:
        """Updates the weights by a batch in parts: x, y and, where the defense attacks, adversarial images.

        Returns:
          The losses and the logits, in parts.
        """
        # The optimizer sums over the devices.
        images = batch[0].shape[0] * batch[0].shape[1] * self._devices.replicas
        variables = self._network.trainable_variables

        def differentiate(watched: Sequence[Any], x: tf.Tensor, y: tf.Tensor, *adversarial: Any) -> Any:
            with tf.GradientTape() as tape:
                losses, logits = defense.loss(self._network, x, y, adversarial[0] if adversarial else None)
                loss = tf.reduce_sum(losses) / images + self._regularization()
            gradients = tape.gradient(loss, [v.value for v in watched])
            # A variable that the loss does not depend on has no gradient.
            found = {i: gradient for i, gradient in enumerate(gradients) if gradient is not None}
            if self._parts > 1:  # the gradient of an Embedding is sparse, and can't be added up
                found = {i: tf.convert_to_tensor(gradient) for i, gradient in found.items()}
            return found, [losses, logits]

        def gradients(watched: Sequence[Any]) -> Any:
            found, results = self._over_parts(functools.partial(differentiate, watched), *batch)
            return [found.get(i) for i in range(len(watched))], results

        moved = perturbed_weights(
            self._network, lambda kernels: gradients(kernels)[0], getattr(defense, "awp", 0.0), self._devices
        )
        with moved:
            at_weights, results = gradients(variables)
        if variables:
            self._optimizer.apply(at_weights, variables)
        return results

    def _regularization(self) -> tf.Tensor | float:
        """The losses of the variables' regularizers, a share of them for each part of the batch on each device."""
        shares = self._parts * self._devices.replicas
        found = [v.regularizer(v) for v in self._network.trainable_variables if v.regularizer is not None]
        return tf.add_n(found) / shares if found else 0.0

    def _in_parts(self, tensor: tf.Tensor) -> tf.Tensor:
        """(P, N / P, …) from (N, …); a scalar stays as it is."""
        return tf.reshape(tensor, (self._parts, -1, *tensor.shape[1:])) if tensor.shape.rank else tensor

    def _over_parts(self, function: Callable[..., Any], *tensors: tf.Tensor) -> Any:
        """Calls a function of a part's slices of tensors, for one part after the other.

        Args:
          function: returns (a nest of tensors to be summed, a nest of tensors to be stacked).
          *tensors: (P, …), or scalars, which all parts share.

        Returns:
          (the sums, the stacked tensors (P, …)).
        """

        def of_part(part: tf.Tensor) -> Any:
            return function(*(t[part] if t.shape.rank else t for t in tensors))

        sums, stacked = of_part(0)
        if self._parts == 1:
            return sums, tf.nest.map_structure(lambda t: t[None], stacked)
        arrays = tf.nest.map_structure(lambda t: tf.TensorArray(t.dtype, self._parts, element_shape=t.shape), stacked)
        arrays = tf.nest.map_structure(lambda array, t: array.write(0, t), arrays, stacked)

        def add(part: tf.Tensor, sums: Any, arrays: Any) -> Any:
            more, stacked = of_part(part)
            return (
                part + 1,
                tf.nest.map_structure(tf.add, sums, more),
                tf.nest.map_structure(lambda array, t: array.write(part, t), arrays, stacked),
            )

        # A loop and not a list: in a graph, parts that do not depend on each other would run at the same time.
        _, sums, arrays = tf.while_loop(
            lambda part, *_: part < self._parts, add, (1, sums, arrays), parallel_iterations=1
        )
        return sums, tf.nest.map_structure(lambda array: array.stack(), arrays)

    def _robust_slice(
        self, defense: Defense, x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor, eps: tf.Tensor
    ) -> tf.Tensor:
        weights = tf.cast(weights, tf.float64)
        correct = tf.cast(defense.robust(self._network, x, y, eps), tf.float64) * weights
        return tf.reduce_sum(tf.stack([correct, weights]), axis=1)

    def _validate_slice(self, x: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        logits = self._network(x, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return _sums(losses, logits, y, weights)


def _sums(losses: tf.Tensor, logits: tf.Tensor, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    correct = tf.cast(tf.argmax(logits, axis=1) == y, tf.float32)
    rows = tf.cast(tf.stack([losses * weights, correct * weights, weights]), tf.float64)
    return tf.reduce_sum(rows, axis=1)
