"""Keras models as files for deployment: `litert_int8`."""

from __future__ import annotations

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfadv.errors import UserError


def litert_int8(model: keras.Model, images: np.ndarray, path: pathlib.Path) -> None:
    """Writes a LiteRT file with weights, activations, input and output in int8.

    Args:
      model: takes images (N, H, W, C).
      images: representative ones, float32 (N, H, W, C) in the pixels that the model expects; they set the scales.
      path: of the file, which ends in ".tflite".

    Raises:
      UserError: the model takes something else, or has an operation that LiteRT can't run in int8.
    """
    if len(model.input_shape) != 4:
        raise UserError(f"{model.name} takes {model.input_shape}: only models of images (N, H, W, C) can be exported.")
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.export(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
            content = converter.convert()
        except Exception as error:  # of many kinds
            raise UserError(f"{model.name} can't be converted to int8 ({' '.join(str(error).split())[:300]}).")
    path.write_bytes(content)
