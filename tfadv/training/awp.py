"""Adversarial weight perturbation (AWP; Wu et al. 2020, https://arxiv.org/abs/2004.05884).

The gradient of an update is computed at weights that are moved, within a
relative distance, in the direction that raises the loss.  This flattens the
loss around the weights and counters robust overfitting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfadv.runtime.devices import Devices


@contextlib.contextmanager
def perturbed_weights(
    network: Any, gradient: Callable[[Sequence[Any]], Sequence[tf.Tensor]], size: float, devices: Devices
) -> Iterator[None]:
    """Moves each kernel w by size · ‖w‖ · g / ‖g‖ for the time of a block, g the gradient of the loss (eq. 9).

    For use inside a training step.  BatchNorm's statistics are as they would be without this call.

    Args:
      network: a Keras model.
      gradient: returns the gradient of the loss for each of some variables; calls the network with `training=True`.
      size: relative distance, the paper's γ; 0 moves nothing.
      devices: over which the gradient is averaged.
    """
    if not size:
        yield
        return
    kernels = [v for v in network.trainable_variables if len(v.shape) > 1]
    statistics = [v for v in network.non_trainable_variables if v.dtype == "float32"]
    before = [tf.identity(v.value) for v in (*kernels, *statistics)]
    gradients = devices.mean(gradient(kernels))
    moved = [w + size * _scaled_to(g, tf.norm(w)) for w, g in zip(before, gradients)]
    devices.assign([*kernels, *statistics], [*moved, *before[len(kernels) :]])
    yield
    devices.assign(kernels, before[: len(kernels)])


def _scaled_to(gradient: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(gradient, tf.norm(gradient)) * norm
