"""SGD with Nesterov momentum and weight decay, in fewer passes over memory than Keras' own."""

from __future__ import annotations

import keras
import tensorflow as tf


class SGD(keras.optimizers.SGD):
    """Keras' SGD with Nesterov momentum, and decoupled weight decay of kernels (variables of two dimensions and more).

    Deep networks on small images have as many parameters as activations.  An
    update in a dozen elementwise operations, each of which reads and writes
    every parameter, then takes a tenth of the training step.  TensorFlow has one
    kernel for the whole update.
    """

    def __init__(self, momentum: float = 0.9, decay: float = 0.0) -> None:
        """`decay`: the fraction of a kernel that is subtracted in a step, times the learning rate."""
        super().__init__(momentum=momentum, nesterov=True)
        self.decay = decay

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable; called by Keras."""
        rate = tf.cast(learning_rate, variable.dtype)
        # Only kernels decay: scales and shifts are few and set the size of the function.
        if self.decay and len(variable.shape) > 1:
            variable.assign_sub(variable * (rate * self.decay))
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=rate,
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=True,
        )
