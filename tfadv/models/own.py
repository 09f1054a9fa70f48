"""User models: a `.keras` file, a SavedModel, a `.tflite` or `.onnx` file, a service, or `module:function`.

No Keras here until a model is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import pathlib
import re
import sys
import zipfile
from typing import Any

from tfadv.errors import UserError
from tfadv.models import MODELS, endpoint, runtimes
from tfadv.models.endpoint import is_endpoint
from tfadv.models.runtimes import FILES as DEPLOYED
from tfadv.store.files import source_of

_OTHER_FILES = (".h5", ".hdf5")  # older formats


def normalized(name: str) -> str:
    """The same name with the path of a file or folder in the normal form: "./mine.keras" → "mine.keras"."""
    if is_endpoint(name):
        return name
    path = os.path.normpath(os.path.expanduser(name))
    return path if name.endswith((".keras", *DEPLOYED)) or is_saved_model(path) else name


def is_own(name: str) -> bool:
    """Whether the name is that of a file, a folder or a function, and not of a model of the table."""
    if name in MODELS:
        return False
    return name.endswith((".keras", *DEPLOYED, *_OTHER_FILES)) or ":" in name or os.sep in name or is_saved_model(name)


def is_saved_model(name: str) -> bool:
    """Whether the name is that of a folder with a SavedModel."""
    return os.path.isfile(os.path.join(os.path.expanduser(name), "saved_model.pb"))


def is_function(name: str) -> bool:
    """Whether the name is that of a function."""
    return (
        ":" in name and not name.endswith((".keras", *DEPLOYED)) and not is_saved_model(name) and not is_endpoint(name)
    )


def takes_twin(name: str) -> bool:
    """Whether the model may have no gradient of its own: a file for deployment, a service, or a function."""
    return name.endswith(DEPLOYED) or is_endpoint(name) or is_function(name)


def is_deployed(name: str) -> bool:
    """Whether the model has no gradient of its own; loads the module of a function."""
    return takes_twin(name) and (not is_function(name) or runtimes.takes_images(runtimes.function_of(name)))


def is_fixed(name: str) -> bool:
    """Whether the model can be attacked but not trained: a SavedModel, a file for deployment, or a service."""
    return name.endswith(DEPLOYED) or is_saved_model(name) or is_endpoint(name)


def label(name: str) -> str:
    """The name in files and tables: that of the file without its ending, of the folder, the service or the function."""
    if is_endpoint(name):
        return endpoint.label(name)
    if name.endswith((".keras", *DEPLOYED)):
        return pathlib.Path(name).stem
    return os.path.basename(normalized(name)) if is_saved_model(name) else name.rpartition(":")[2]


def check(name: str) -> None:
    """Checks a name that `is_own` accepts.

    Raises:
      UserError: there is no such file, it has an older format, or the form is not module:function.
    """
    if is_endpoint(name):
        endpoint.check(name)
        return
    if name.endswith(_OTHER_FILES):
        raise UserError(f"{name} is in an older format: convert it with keras.models.load_model(…).save('x.keras').")
    if name.endswith((".keras", *DEPLOYED)):
        if not os.path.isfile(normalized(name)):
            raise UserError(f"there is no model file {name}.")
        return
    if is_saved_model(name):
        return
    if os.sep in name and ":" not in name:
        raise UserError(f"{name} is neither a .keras, .tflite or .onnx file nor a folder with a SavedModel.")
    module, _, function = name.rpartition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise UserError(f"{name!r} is neither a built-in model, a model file, a SavedModel nor module:function.")


def image_shape(name: str) -> tuple[int | None, int | None, int | None]:
    """(H, W, C) of the images that a file or a service takes, read without Keras; None for what is not known.

    Images without an axis for channels have one channel.

    Raises:
      UserError: a file for deployment is damaged, or a service does not answer.
    """
    if is_endpoint(name):
        height, width, channels = endpoint.describe(name).image_shape or (None, None, None)
        return height, width, channels
    if name.endswith(DEPLOYED):
        return runtimes.open_model(normalized(name), None).image_shape
    try:
        with zipfile.ZipFile(normalized(name)) as file:
            config = json.loads(file.read("config.json"))
        config = config["config"].get("model", config)  # of a `tfadv.expectation`
        layers = config["config"].get("layers") or [{}]
        shape = (config.get("build_config") or {}).get("input_shape") or layers[0]["config"]["batch_shape"]
        shape = (*shape, 1) if len(shape) == 3 else shape
        height, width, channels = (size if isinstance(size, int) else None for size in shape[1:])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError):
        return None, None, None
    return height, width, channels


def channels(name: str) -> int | None:
    """The number of channels of the images that a model takes; None where it is not known.

    Raises:
      UserError: as `load`, for a folder or a function; a file is only looked into.
    """
    if name.endswith((".keras", *DEPLOYED)) or is_endpoint(name):
        return image_shape(name)[2]
    model = load(name)
    if not hasattr(model, "inputs"):  # a function of arrays
        return None
    try:
        shape = model.inputs[0].shape
    except (AttributeError, ValueError, TypeError):  # not built yet
        return None
    return shape[3] if len(shape) == 4 else None


def identity(name: str) -> dict[str, Any]:
    """JSON values that change when the model does: the hash of its files, or of what the function returns.

    And that of the code of layers that are not Keras' own. Of a service, its address and the version that it names.

    Raises:
      UserError: as `load`, for a function, and for a file with such layers.
    """
    if is_endpoint(name):
        return {"endpoint": name, "version": endpoint.describe(name).version}
    if name.endswith((".keras", *DEPLOYED)):
        file = {"file_sha256": hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()}
        return file | (_code_of(load(name)) if _names_foreign_code(name) else {})
    if is_saved_model(name):
        from tfadv.models import saved_model

        return {"files_sha256": saved_model.files_hash(name)}
    return {"function": name, **_function_identity(name)}


@functools.cache
def _function_identity(name: str) -> dict[str, Any]:
    """Raises UserError where the source of a function can't be read."""
    from tfadv.models import files

    model = load(name)
    if not hasattr(model, "to_json"):  # a function of arrays, known by its code only
        try:
            source = inspect.getsource(sys.modules[model.__module__])
        except (OSError, TypeError):  # an empty or a compiled module
            raise UserError(
                f"{name}: its source can't be read, which tells results apart: name a function of a .py file."
            )
        return {"source_sha256": hashlib.sha256(source.encode()).hexdigest()}
    return {"network": files.description(model), "weights_sha256": files.weights_hash(model), **_code_of(model)}


def _names_foreign_code(name: str) -> bool:
    """Whether a .keras file has layers or functions that are neither Keras' nor tfadv's; else it need not be loaded."""
    try:
        with zipfile.ZipFile(name) as file:
            config = file.read("config.json").decode()
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):  # no model file, or a file for deployment
        return False
    packages = {module.partition(".")[0] for module in re.findall(r'"module": "([^"]+)"', config)}
    return bool(packages - {"keras", "tfadv", "builtins"}) or '"class_name": "function"' in config


def _code_of(model: Any) -> dict[str, Any]:
    """The source files of layers and registered functions that are neither Keras' nor tfadv's; {} if there are none."""
    import keras

    from tfadv.models.structure import layers_of

    config = model.to_json()
    used = {type(layer) for layer in layers_of(model)}
    used |= {thing for name, thing in keras.saving.get_custom_objects().items() if f'"{name}"' in config}
    sources = {source_of(thing) for thing in used if thing.__module__.partition(".")[0] != "keras"}
    return {"code_sha256": found} if (found := sorted(filter(None, sources))) else {}


def load(name: str, twin: str = "", shape: tuple[int, int, int] | None = None, classes: int | None = None) -> Any:
    """The Keras model; of a function that takes arrays, the function where no shape is given.

    Args:
      name: as `is_own` accepts it.
      twin: the path of a .keras file, whose gradient a model for deployment gets; "" for none.
      shape: (H, W, C) of the images.
      classes: their number, for a deployed model that returns labels.

    Raises:
      UserError: the file or folder is damaged or needs unknown code, or the function fails or returns something else.
    """
    import keras

    from tfadv.models import files

    if name.endswith(DEPLOYED) or is_endpoint(name):
        return _deployed(name, twin, shape, classes)
    if name.endswith(".keras"):
        return files.load(name)
    if is_saved_model(name):
        from tfadv.models import saved_model

        try:
            return saved_model.load(name)
        except Exception as error:  # of many kinds: a protocol buffer, a graph and a checkpoint
            raise UserError(f"the SavedModel {name} can't be loaded ({' '.join(str(error).split())[:300]}).")
    try:
        called = runtimes.function_of(name)
        if runtimes.takes_images(called):
            return _deployed(name, twin, shape, classes) if shape else called
        model = called()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the model {name} can't be built ({message[:300]}).")
    if not isinstance(model, keras.Model):
        raise UserError(
            f"{name} must take images and return their classes, or take nothing and return a keras.Model; "
            f"it returned {type(model).__name__}."
        )
    return model


def _deployed(name: str, twin: str, shape: tuple[int, int, int] | None, classes: int | None) -> Any:
    """The Keras model of a deployed one.

    Raises:
      UserError: see `load`.
    """
    from tfadv.models.deployed import deployed

    try:
        return deployed(name, twin or None, input_shape=shape, classes=classes)
    except UserError:
        raise
    except Exception as error:  # whatever a runtime or a user's code raises for some random images
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name} fails on random images ({message[:300]}).")
