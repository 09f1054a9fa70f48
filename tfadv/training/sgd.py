"""SGD with Nesterov momentum and weight decay, in fewer passes over memory than Keras' own."""

import keras
import tensorflow as tf


class SGD(keras.optimizers.SGD):
    """Keras' SGD with Nesterov momentum, and decoupled weight decay of kernels (variables of two dimensions and more).

    Deep networks on small images have as many parameters as activations, so
    that an update of a dozen elementwise steps, each of which reads and writes
    every parameter, takes a tenth of the training step.  TensorFlow has one
    kernel for the whole of it.
    """

    def __init__(self, momentum=0.9, decay=0.0):
        """`decay`: float, the share of a kernel that is taken away in a step, times the learning rate."""
        super().__init__(momentum=momentum, nesterov=True)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        """One step of one `tf.Variable`; called by Keras."""
        rate = tf.cast(learning_rate, variable.dtype)
        # Scales and shifts are few and set the function's size: decay is for kernels.
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
