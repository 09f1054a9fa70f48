"""SavedModels as Keras models, for predictions and gradients; they have no layers that could be trained."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import keras
import tensorflow as tf

_SIGNATURE = "serving_default"  # `keras.Model.export` and `tf.saved_model.save` both write it


def load(path: str) -> keras.Model:
    """A functional model that calls the SavedModel's default signature.

    Args:
      path: the folder that holds `saved_model.pb`.

    Raises:
      ValueError: the signature is missing, or does not take one tensor and return one.
    """
    layer = _SavedModelLayer(path, name="saved_model")
    images = keras.Input(layer.image_shape, dtype=layer.image_dtype)
    return keras.Model(images, layer(images), name=pathlib.Path(path).name)


def files_hash(path: str) -> str:
    """The SHA-256 of the names and contents of all files in the folder."""
    sha = hashlib.sha256()
    for file in sorted(p for p in pathlib.Path(path).rglob("*") if p.is_file()):
        sha.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        sha.update(file.read_bytes())
    return sha.hexdigest()


@keras.saving.register_keras_serializable("tfadv")
class _SavedModelLayer(keras.layers.Layer):
    """Calls the default signature of a SavedModel.

    `keras.layers.TFSMLayer` is not used because Keras' safe mode refuses to load a model that contains it.
    """

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False} | kwargs)
        self.folder = folder
        self._loaded = tf.saved_model.load(folder)  # must live as long as its signatures
        signatures = self._loaded.signatures
        if _SIGNATURE not in signatures:
            raise ValueError(f"{folder} has no signature {_SIGNATURE}; it has {', '.join(signatures) or 'none'}.")
        self._signature = signatures[_SIGNATURE]
        takes, returns = self._signature.structured_input_signature[1], self._signature.structured_outputs
        if len(takes) != 1 or len(returns) != 1:
            raise ValueError(f"{folder} takes {len(takes)} tensors and returns {len(returns)}: it must be one of each.")
        ((self._input, spec),), (self._output,) = takes.items(), returns
        self.image_shape, self.image_dtype = tuple(spec.shape[1:]), spec.dtype.name

    def call(self, inputs: Any) -> Any:
        return self._signature(**{self._input: inputs})[self._output]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"folder": self.folder}
