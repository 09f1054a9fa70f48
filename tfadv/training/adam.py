"""Adam with decoupled weight decay, in fewer passes over memory than Keras' own."""

from __future__ import annotations

import keras
import tensorflow as tf


class Adam(keras.optimizers.Adam):
    """Keras' Adam, and decoupled weight decay of kernels (variables of two dimensions and more).

    TensorFlow has one kernel for the whole update of a variable; see `tfadv.training.sgd.SGD`.
    """

    def __init__(self, decay: float = 0.0) -> None:
        """`decay`: the fraction of a kernel that is subtracted in a step, times the learning rate."""
        super().__init__()
        self.decay = decay

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable; called by Keras."""
        dtype, index = variable.dtype, self._get_variable_index(variable)
        rate, step = tf.cast(learning_rate, dtype), tf.cast(self.iterations + 1, dtype)
        if self.decay and len(variable.shape) > 1:
            variable.assign_sub(variable * (rate * self.decay))
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )
