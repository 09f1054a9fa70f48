"""What runs a deployed model: LiteRT, ONNX Runtime, a service, or a function of arrays.  No TensorFlow graph here."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import inspect
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfadv.errors import UserError
from tfadv.models.endpoint import Endpoint, is_endpoint
from tfadv.models.predictor import CHANNELS, MOST_AT_ONCE, Predictor, checked_shape

FILES = (".tflite", ".onnx")
_ANY_SIZE = 32  # pixels, where a file takes images of any size


def open_model(model: Any, input_shape: tuple | None) -> Predictor:
    """The predictor of a file, a service or a function.

    Args:
      model: the path of a .tflite or .onnx file, or the address of a service, or a function, or its "module:function".
      input_shape: (H, W, C) of the images, where the model does not tell it; None where it is not known.

    Raises:
      UserError: the file is damaged, or is of an unknown kind, or a package is missing, or the service is not there.
      ValueError: `model` is something else, or the shape of the images is unknown.
    """
    if callable(model):
        return Function(model, input_shape)
    if isinstance(model, str) and is_endpoint(model):
        return Endpoint(model, input_shape)
    if isinstance(model, str) and ":" in model and not model.endswith(FILES):
        return Function(function_of(model), input_shape)
    if not isinstance(model, (str, os.PathLike)):
        raise ValueError(f"model must be a path or a function of images, got {type(model).__name__}.")
    path = pathlib.Path(model)
    if path.suffix not in FILES:
        raise UserError(f"{model} is none of {', '.join(FILES)}.")
    if not path.is_file():
        raise UserError(f"there is no model file {model}.")
    if not path.stat().st_size:
        raise UserError(f"{path.name} can't be read (it is empty): export or copy it again.")
    return LiteRT(path, input_shape) if path.suffix == ".tflite" else Onnx(path, input_shape)


def function_of(name: str) -> Callable[..., Any]:
    """The function that a text such as "module:function" names, also of a module in the current folder."""
    module, _, function = name.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except SystemExit:
        raise UserError(f"{module} calls sys.exit when it is imported: do so below if __name__ == '__main__'.")


def takes_images(function: Callable[..., Any]) -> bool:
    """Whether it has an argument that must be given."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


class Function(Predictor):
    """A function of the user."""

    def __init__(self, function: Callable[[np.ndarray], Any], input_shape: tuple | None) -> None:
        """`input_shape`: (H, W, C)."""
        self.label = getattr(function, "__name__", type(function).__name__)
        if input_shape is None:
            raise ValueError(f"give input_shape, the (H, W, C) of the images that {self.label} takes.")
        self._function, self.image_shape = function, tuple(input_shape)
        self._lock = threading.Lock()  # nothing is known of a user's code

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Predictor.__call__`."""
        with self._lock:
            try:
                values = self._function(np.array(images))  # a copy, which it may change
            except SystemExit as error:  # else the process would end as if all were well
                raise UserError(f"{self.label} ended with sys.exit({error.code!r}) and returned nothing.")
        try:
            values = np.asarray(values)
        except ValueError:  # lists of different lengths
            raise UserError(f"{self.label} must return one row of numbers per image, all of the same length.")
        if values.dtype.kind not in "iufb":
            raise UserError(f"{self.label} must return numbers; it returned an array of {values.dtype}.")
        if not values.ndim or len(values) != len(images):
            raise UserError(f"{self.label} got {len(images)} images and returned outputs of shape {values.shape}.")
        return values


class _File(Predictor):
    """A file that takes batches, or images one by one, which then run in as many threads as there are cores."""

    _takes_batches: bool

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """The outputs of a batch, or of one image where the file takes no batches; called by several threads."""
        raise NotImplementedError

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Predictor.__call__`."""
        if self._takes_batches:
            parts = [self._run(images[i : i + MOST_AT_ONCE]) for i in range(0, len(images), MOST_AT_ONCE)]
        else:
            parts = list(self._pool.map(self._run, np.split(images, len(images))))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


class LiteRT(_File):
    """A .tflite file; its inputs and outputs are quantized as the file says."""

    def __init__(self, path: pathlib.Path, input_shape: tuple | None = None) -> None:
        """Reads the file; `input_shape`: as in `open_model`.

        Raises:
          UserError: it is damaged, or does not take one batch of images and return one tensor.
        """
        self.label, self._content = path.name, path.read_bytes()
        self._threads = os.cpu_count() or 1
        self._own = threading.local()  # an interpreter is for one thread at a time
        with _one_line(path.name):
            interpreter = self._interpreter()
        takes, returns = interpreter.get_input_details(), interpreter.get_output_details()
        if len(takes) != 1 or len(returns) != 1:
            raise UserError(f"{path.name} takes {len(takes)} tensors and returns {len(returns)}: it must be one each.")
        (self._input,), (self._output,) = takes, returns
        signature = self._input.get("shape_signature", ())
        self.image_shape = checked_shape(path.name, signature if len(signature) else self._input["shape"], input_shape)
        self.output_step = float(self._output["quantization"][0])
        with _one_line(path.name):
            self._takes_batches = self._tries_batches()
        if not self._takes_batches:
            self._own, self._threads = threading.local(), 1  # of each of many interpreters

    def _interpreter(self) -> Any:
        """The interpreter of this thread."""
        if not hasattr(self._own, "interpreter"):
            try:
                from ai_edge_litert.interpreter import Interpreter
            except ImportError:
                from tensorflow import lite

                Interpreter = lite.Interpreter
            self._own.interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
            self._own.shape = None  # that memory is allocated for: with open sizes, the file's own may be impossible
        return self._own.interpreter

    def _tries_batches(self) -> bool:
        """Whether a batch gives what its images give one by one; graphs with a fixed Reshape don't."""
        shape = [size or _ANY_SIZE for size in self.image_shape]
        images = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
        one_by_one = np.concatenate([self._run(image[None]) for image in images])
        try:
            return np.allclose(self._run(images), one_by_one, rtol=1e-4, atol=1e-5)
        except (RuntimeError, ValueError):
            return False

    def _run(self, images: np.ndarray) -> np.ndarray:
        interpreter, shape = self._interpreter(), images.shape
        if self._own.shape != shape:
            if tuple(interpreter.get_input_details()[0]["shape"]) != shape:
                interpreter.resize_tensor_input(self._input["index"], shape)
            interpreter.allocate_tensors()
            self._own.shape = shape
        interpreter.set_tensor(self._input["index"], _quantized(images, self._input))
        interpreter.invoke()
        values = interpreter.get_tensor(self._output["index"])
        scale, zero = self._output["quantization"]
        return (values.astype(np.float32) - zero) * np.float32(scale) if scale else values


class Onnx(_File):
    """An .onnx file, of images (N, H, W, C) or (N, C, H, W)."""

    def __init__(self, path: pathlib.Path, input_shape: tuple | None = None) -> None:
        """Reads the file; `input_shape`: as in `open_model`.

        Raises:
          UserError: ONNX Runtime is not installed, or the file is damaged, or does not take one batch of images.
        """
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path.name} needs ONNX Runtime: pip install onnxruntime.")
        with _one_line(path.name):
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        takes, returns = self._session.get_inputs(), self._session.get_outputs()
        if len(takes) != 1 or len(returns) != 1:
            raise UserError(f"{path.name} takes {len(takes)} tensors and returns {len(returns)}: it must be one each.")
        (self._input,), (self._output,) = takes, returns
        if self._input.type not in ("tensor(float)", "tensor(uint8)"):
            raise UserError(f"{path.name} takes {self._input.type}: it must be tensor(float) or tensor(uint8).")
        shape = [size if isinstance(size, int) else None for size in self._input.shape]
        self._channels_first = len(shape) == 4 and shape[1] in CHANNELS and shape[3] not in CHANNELS
        ordered = [shape[0], shape[2], shape[3], shape[1]] if self._channels_first else shape
        self.image_shape = checked_shape(path.name, ordered, input_shape)
        if shape[0] not in (None, 1):
            raise UserError(f"{path.name} takes {shape[0]} images at a time: export it for one or for any number.")
        self.label, self._takes_batches = path.name, shape[0] != 1

    def _run(self, images: np.ndarray) -> np.ndarray:
        given = images.transpose(0, 3, 1, 2) if self._channels_first else images
        if self._input.type == "tensor(uint8)":
            given = np.clip(np.round(given), 0, 255).astype(np.uint8)
        return self._session.run([self._output.name], {self._input.name: np.ascontiguousarray(given)})[0]


def _quantized(images: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Images in the type of a tensor, as its scale and zero point say."""
    dtype, (scale, zero) = details["dtype"], details["quantization"]
    if np.issubdtype(dtype, np.floating):
        return images.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(images / (scale or 1.0)) + zero, limits.min, limits.max).astype(dtype)


@contextlib.contextmanager
def _one_line(label: str) -> Iterator[None]:
    """Turns what a runtime raises of a damaged file into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of many kinds, of two packages
        raise UserError(f"{label} can't be read ({' '.join(str(error).split())[:200]}): export or copy it again.")
