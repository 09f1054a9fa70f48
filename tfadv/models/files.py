"""Keras model files: hashes of the layers and of the weights, saving and loading."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile

import keras
import numpy as np

from tfadv.errors import UserError
from tfadv.store.files import digest


def description(model: keras.Model) -> str:
    """A hash of all layers of a model and of their settings, whatever numbers Keras has given to their names."""
    text = model.to_json()
    names = dict.fromkeys(re.findall(r'"name": "([^"]+)"', text))
    numbers = {name: f"layer{number}" for number, name in enumerate(names)}
    # A layer is named by its own name, and first in a list by the layers that it is connected to.
    return digest(re.sub(r'("name": |\[)"([^"]+)"', lambda m: f'{m[1]}"{numbers.get(m[2], m[2])}"', text))


def weights_hash(model: keras.Model) -> str:
    """The SHA-256 of all weights in order: the same for the same weights, whatever file holds them."""
    sha = hashlib.sha256()
    for variable in model.weights:
        sha.update(str(tuple(variable.shape)).encode())  # not its path: Keras numbers the names of layers
        sha.update(np.ascontiguousarray(variable.numpy()).data)
    return sha.hexdigest()


def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a `.keras` file without the optimizer's state, which would double it."""
    if getattr(model, "optimizer", None) is not None and getattr(model, "inputs", None):  # subclassed ones have none
        inputs, outputs = (t[0] if len(t) == 1 else t for t in (model.inputs, model.outputs))
        model = keras.Model(inputs, outputs, name=model.name)
    model.save(path)


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Reads the weights of a `.keras` file that `save` wrote of the same model, whatever classes the model consists of.

    Raises:
      UserError: the file does not fit.
    """
    try:
        model.load_weights(path)
    except Exception as error:  # of many kinds, like those of `load`
        raise UserError(f"{path} does not fit the model {model.name} ({' '.join(str(error).split())[:200]}).")


def load(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file for inference, without running code that it may contain.

    Raises:
      UserError: the file is no Keras model, or needs a Lambda layer or a class that safe mode refuses.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a zip of HDF5 and JSON: damaged, it raises whatever its readers do
        text = str(error) or type(error).__name__
        if os.path.isfile(path) and not zipfile.is_zipfile(path):
            raise UserError(f"{path} is not a .keras file, or its end is missing: save or copy the model again.")
        if "Lambda" in text:
            raise UserError(f"{path} contains code of its own (a Lambda layer), which tfadv does not run.")
        if "Could not locate" in text:
            unknown = re.search(r"Could not locate \w+ '([^']+)'", text)
            raise UserError(
                f"{path} needs {unknown[1] if unknown else 'a class'}, which neither Keras nor tfadv knows."
            )
        raise UserError(
            f"{path} can't be loaded as a Keras model ({text.splitlines()[0][:200]}): save or copy it again."
        )
