"""Models that draw random numbers when they predict: what they answer on average."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfadv.errors import check_whole_number
from tfadv.models.compiled import logits_of
from tfadv.models.image_model import image_model

_SMALLEST = 1e-30  # probability; its logarithm is still finite


def expectation(model: keras.Model, samples: int = 20) -> keras.Model:
    """A model that answers with the mean of several passes through a random one (expectation over transformation).

        average = tfadv.expectation(tfadv.classifier(model, input_range=(0, 255)), samples=20)
        result = tfadv.evaluate(average, x, y, "autoattack(attacks=apgd-ce+apgd-dlr)", eps=8 / 255)

    Its logits are the logarithm of the mean probabilities of `samples` new passes.  Attacks follow the mean of the
    gradients of the loss of each pass (Athalye et al. 2018, https://arxiv.org/abs/1802.00420, section 4.3).  Attacks of
    several steps check each adversarial image with new passes, and attack it again, up to three times, if these are
    right.  Other new passes give the accuracy.  FAB, FMN, DDN, SigmaZero, HopSkipJump, RayS, Spatial and Patch do not
    check, and are refused.  Each gradient and each prediction costs `samples` passes.  The attacks above are those of
    AutoAttack's version "rand".

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K) whose layers draw random numbers
        at inference, with `training=False`.  A functional model hands this on to its layers, so that
        `keras.layers.Dropout(0.5)(x, training=True)` draws nothing; inside the `call` of a layer, it does.
      samples: passes for each answer and each gradient.

    Returns:
      A `keras.Model` of the same inputs and outputs, for attacks and evaluations.

    Raises:
      ValueError: `samples` is no whole number above 0.
    """
    check_whole_number("samples", samples, 1)
    return Expectation(image_model(model), samples)


def passes_of(model: Any) -> int:
    """How many passes an answer of a model costs: those of an `expectation`, else 1."""
    return model.samples if isinstance(model, Expectation) else 1


@keras.saving.register_keras_serializable("tfadv")
class Expectation(keras.Model):
    """See `expectation`."""

    def __init__(self, model: keras.Model, samples: int, **kwargs: Any) -> None:
        """Arguments as in `expectation`."""
        super().__init__(**{"name": f"mean_{model.name}"} | kwargs)
        self.model, self.samples = model, samples
        self.built = True

    @property
    def input_shape(self) -> Any:
        """That of the model."""
        return self.model.input_shape

    @property
    def output_shape(self) -> Any:
        """That of the model."""
        return self.model.output_shape

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """float32 (N, K): the logarithm of the mean probabilities."""
        return self.mean(lambda: (tf.nn.softmax(logits_of(self.model, inputs)), ()))[0]

    def mean(self, one_pass: Any) -> tuple[tf.Tensor, Any]:
        """Means over all passes.

        Args:
          one_pass: a function without arguments that returns (probabilities (N, K), a nest of tensors).

        Returns:
          (the logarithm of the mean probabilities, the means of the others).
        """
        first = one_pass()

        def add(i: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
            return i + 1, tf.nest.map_structure(tf.add, sums, one_pass())

        _, sums = tf.while_loop(lambda i, _: i < self.samples, add, (tf.constant(1), first))
        probabilities, others = tf.nest.map_structure(lambda total: total / self.samples, sums)
        return tf.math.log(tf.maximum(probabilities, _SMALLEST)), others

    def get_config(self) -> dict[str, Any]:
        """The model and the number of passes."""
        return super().get_config() | {
            "model": keras.saving.serialize_keras_object(self.model),
            "samples": self.samples,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Expectation:
        """The inverse of `get_config`."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**config | {"model": model})
