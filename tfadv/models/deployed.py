"""Models as they are deployed: LiteRT and ONNX files, services, and functions of NumPy arrays, as Keras models.

What is attacked are the predictions of the file.  It has no gradient, so attacks follow that of a twin, the Keras model
that the file was made from, at the same image (backward pass differentiable approximation, Athalye et al. 2018,
https://arxiv.org/abs/1802.00420).  Whether an image is adversarial, and every loss, is decided by the file.
"""

from __future__ import annotations

import os
import pathlib
import re
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv.errors import UserError
from tfadv.models import runtimes
from tfadv.models.accelerate import accelerated
from tfadv.models.compiled import logits_of
from tfadv.models.image_model import unwrapped
from tfadv.models.logits import classifier
from tfadv.models.predictor import Predictor
from tfadv.runtime import compilation

RETURNS = ("auto", "logits", "probabilities", "labels")
_PROBED = 16  # random images that show what the outputs are
_TOLERANCE = 1e-2  # of a sum of probabilities, besides the rounding of quantized ones


def deployed(
    model: str | os.PathLike | Callable[[np.ndarray], Any],
    twin: keras.Model | str | os.PathLike | None = None,
    *,
    returns: str = "auto",
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
) -> keras.Model:
    """A Keras model with the predictions of a deployed one and the gradient of its twin.

        file = tfadv.deployed("model_int8.tflite", twin=keras.models.load_model("model.keras"))
        result = tfadv.evaluate(tfadv.classifier(file, input_range=(0, 255)), images, labels, "autoattack", 8 / 255)

    Without a twin there is no gradient: attack with square if the model returns scores, with hopskipjump or rays if it
    returns labels.  The model can be attacked, not trained, and XLA does not compile it.

    Args:
      model: the path of a .tflite or .onnx file, or the address of a service in TensorFlow Serving's REST form, such as
        "http://127.0.0.1:8501/v1/models/m:predict", or a function from float32 images (N, H, W, C) to one row of
        outputs per image, (N, K) or (N, 1), or to class numbers, int (N,).  Pixels are those that the model expects.
      twin: the Keras model that the file was made from, or the path of its .keras file; it takes the same pixels.
      returns: "logits", "probabilities" or "labels".  "auto" treats integers (N,) as labels, and outputs in [0, 1] that
        sum to 1 as probabilities.
      input_shape: (H, W, C), for a function, or a service or file that does not tell it, without a twin.
      classes: their number, for labels without a twin.

    Returns:
      A functional `keras.Model` from float32 images to float32 logits (N, K) or, for one probability of two classes,
      (N, 1).  Labels become the logits 1 for the class and -1 for the others.

    Raises:
      UserError: the file can't be read, needs a package that is not installed, the service does not answer, or the
        outputs do not fit.
      ValueError: an argument is missing or wrong.
    """
    if returns not in RETURNS:
        raise ValueError(f"returns must be one of {', '.join(RETURNS)}, got {returns!r}.")
    layer = _DeployedLayer(model, twin, returns, input_shape, classes, name="deployed")
    images = keras.Input(layer.image_shape)
    return keras.Model(images, layer(images), name=re.sub(r"[^A-Za-z0-9_.-]", "", layer.label) or "deployed")


@keras.saving.register_keras_serializable("tfadv")
class _DeployedLayer(keras.layers.Layer):
    """Logits of a deployed model; its gradient is that of the twin."""

    def __init__(
        self, model: Any, twin: Any, returns: str, input_shape: Any = None, classes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"trainable": False, "dtype": "float32"} | kwargs)
        given = {"model": model, "twin": twin, "returns": returns, "input_shape": input_shape, "classes": classes}
        if isinstance(twin, (str, os.PathLike)):
            twin = _load_twin(twin)
        predictor = runtimes.open_model(model, input_shape or _shape_of(twin))
        self.label, self.image_shape = predictor.label, predictor.image_shape
        # In a namespace, because Keras would take the variables of the twin for those of this layer.
        self._hidden = types.SimpleNamespace(given=given, predictor=predictor, twin=None, failure=None)
        self.returns, self._columns = _outputs_of(predictor, returns, twin, classes)
        if twin is not None:
            self._hidden.twin = self._checked_twin(twin)
        self.built = True

    def _checked_twin(self, twin: keras.Model) -> keras.Model:
        """The logits of the twin, as many as those of the file."""
        if unwrapped(twin) is not twin:
            raise ValueError("the twin is an AdversarialModel: give its attribute model.")
        logits = classifier(twin, input_shape=self.image_shape)
        takes, columns = logits.input_shape[1:], logits.output_shape[1]
        if columns != max(self._columns, 2):
            raise UserError(f"{self.label} returns {self._columns} values per image, and its twin {columns} logits.")
        if any(a is not None and a != b for a, b in zip(takes, self.image_shape)):
            raise UserError(f"{self.label} takes images {self.image_shape}, and its twin {tuple(takes)}.")
        return logits

    def call(self, inputs: Any) -> Any:
        @tf.custom_gradient
        def outputs(x: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
                at_images = self._gradient(x, upstream)  # the variables are those of a Keras model in the function
                return at_images if variables is None else (at_images, [None] * len(variables))

            values = tf.numpy_function(self._logits, [x], tf.float32)
            return tf.ensure_shape(values, (x.shape[0], self._columns)), gradient

        return outputs(inputs)

    def _gradient(self, x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        """The gradient of the twin at the images, where that at the logits is `upstream`, float32 (N, K)."""
        twin = self._hidden.twin
        if twin is None:
            return tf.zeros_like(x)
        fast = accelerated(twin) if compilation.use_accelerated() else twin
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = logits_of(fast, x)
            logits = logits[:, 1:] if self._columns == 1 else logits  # of (0, z)
        return tape.gradient(logits, x, output_gradients=upstream, unconnected_gradients="zero")

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((inputs.shape[0], self._columns), "float32")

    def failure_of_deployed(self) -> UserError | None:
        """What went wrong in the last call, as a line for people.  TensorFlow raises another error in its place."""
        error, self._hidden.failure = self._hidden.failure, None
        if error is None or isinstance(error, UserError):
            return error
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return UserError(f"{self.label} failed on a batch of images ({text}).")

    def _logits(self, images: np.ndarray) -> np.ndarray:
        """float32 (N, K)."""
        try:
            return to_logits(self._hidden.predictor(images), self.returns, self._columns, self._hidden.predictor)
        except Exception as error:
            self._hidden.failure = error
            raise

    def get_config(self) -> dict[str, Any]:
        given = self._hidden.given
        if not all(value is None or isinstance(value, (str, os.PathLike)) for value in (given["model"], given["twin"])):
            raise ValueError(f"{self.label} can be saved only if the model and its twin are given by their paths.")
        files = {key: given[key] for key in ("model", "twin") if given[key] and os.path.isfile(given[key])}
        return super().get_config() | given | {key: os.path.abspath(path) for key, path in files.items()}


def to_logits(values: np.ndarray, returns: str, columns: int, predictor: Predictor) -> np.ndarray:
    """float32 (N, K) from what a model returned.

    Raises:
      UserError: the shape is another one than before, or a value is not finite.
    """
    if returns == "labels":
        labels = values.reshape(-1).astype(np.int64)
        wrong = labels[(labels < 0) | (labels >= columns)]
        if len(wrong):
            raise UserError(f"{predictor.label} returned class {wrong[0]}, and there are {columns} classes.")
        return np.where(labels[:, None] == np.arange(columns), 1, -1).astype(np.float32)
    if values.ndim != 2 or values.shape[1] != columns:
        raise UserError(f"{predictor.label} returned outputs {values.shape}, and before {columns} per image.")
    if not np.isfinite(values).all():
        raise UserError(f"{predictor.label} returned NaN or infinity for {(~np.isfinite(values)).any(1).sum()} images.")
    if returns == "logits":
        return values.astype(np.float32)
    if (values < -_TOLERANCE).any() or (values > 1 + _TOLERANCE).any():
        raise UserError(f"{predictor.label} returned {values.min():g} to {values.max():g}, and before probabilities.")
    # A quantized probability of 0 is one below half a step.
    least = max(predictor.output_step / 2, float(np.finfo(np.float32).tiny))
    p = np.clip(values, least, 1)
    if columns == 1:
        return (np.log(p) - np.log(np.clip(1 - values, least, 1))).astype(np.float32)
    return np.log(p).astype(np.float32)


def _outputs_of(predictor: Predictor, returns: str, twin: Any, classes: int | None) -> tuple[str, int]:
    """(what the model returns, how many logits that becomes), from its outputs for random images."""
    images = np.random.default_rng(0).uniform(size=(3 * _PROBED, *(size or 32 for size in predictor.image_shape)))
    images[_PROBED : 2 * _PROBED] *= 255  # the range of the pixels is not known
    images[2 * _PROBED :] = 2 * images[2 * _PROBED :] - 1
    values = predictor(images.astype(np.float32))
    if values.dtype.kind not in "iufb":
        raise UserError(f"{predictor.label} must return numbers; it returned an array of {values.dtype}.")
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.round(values)))
    if returns == "labels" or (returns == "auto" and values.ndim == 1 and whole):
        if values.size != len(images):
            raise UserError(f"{predictor.label} must return one class number per image; it returned {values.shape}.")
        columns = classes or (twin.output_shape[-1] if twin is not None else None)
        if not columns:
            raise ValueError(f"{predictor.label} returns labels: give classes, the number of classes.")
        return "labels", max(2, columns)
    if values.ndim != 2 or len(values) != len(images):
        raise UserError(
            f"{predictor.label} must return one row of outputs per image, (N, K), or one class number, (N,); for "
            f"{len(images)} images it returned {values.shape}."
        )
    if returns != "auto":
        return returns, values.shape[1]
    tolerance = _TOLERANCE + predictor.output_step * values.shape[1] / 2
    of_probabilities = bool(((values >= 0) & (values <= 1)).all())
    if values.shape[1] > 1:
        of_probabilities &= np.allclose(values.sum(axis=1), 1, atol=tolerance)
    return "probabilities" if of_probabilities else "logits", values.shape[1]


def _load_twin(path: str | os.PathLike) -> keras.Model:
    from tfadv.models import files

    if not pathlib.Path(path).is_file():
        raise UserError(f"there is no model file {path}, which is to be the twin.")
    return files.load(path)


def _shape_of(twin: keras.Model | None) -> tuple | None:
    shape = getattr(twin, "input_shape", None)
    return tuple(shape[1:]) if isinstance(shape, tuple) and len(shape) == 4 else None
