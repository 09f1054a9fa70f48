"""A model behind a service that speaks TensorFlow Serving's REST form: `Endpoint`.

The form is that of https://www.tensorflow.org/tfx/serving/api_rest: {"instances": images} → {"predictions": rows}.
Only the host that the user named is asked: no redirect is followed, and no proxy is used.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import math
import re
import threading
import time
import urllib.parse

import numpy as np

from tfadv.errors import UserError
from tfadv.models.predictor import MOST_AT_ONCE, Predictor, checked_shape

LOG = logging.getLogger(__name__)
_TIMEOUT = 60.0  # seconds, for an answer to begin or to go on
_WAITS = (0.0, 1.0, 2.0, 4.0)  # seconds before each further attempt; an idle connection may have been closed
_MOST_NUMBERS = 2**20  # in one request
_MOST_BYTES = 2**26  # of an answer
_BUSY = 429


def is_endpoint(name: str) -> bool:
    """Whether a name is the address of a service."""
    return name.startswith(("http://", "https://"))


def check(url: str) -> urllib.parse.SplitResult:
    """The parts of an address.

    Raises:
      UserError: it has another form than http://host:8501/v1/models/m:predict.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and bool(parts.path.strip("/"))
    except ValueError:
        valid = False
    if not valid or re.search(r"[^!-~]", url):
        raise UserError(f"{url} is no address such as http://127.0.0.1:8501/v1/models/m:predict.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("the address of a model must have no password and no part after ? or #: files would keep it.")
    return parts


def label(url: str) -> str:
    """The name in files and tables: that of the model, with its version where the address has one."""
    found = re.search(r"/models/([^/:]+)(?:/versions/([^/:]+))?", url)
    return "_".join(filter(None, found.groups())) if found else str(check(url).hostname)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a service tells of its model.

    Attributes:
      image_shape: (H, W, C), of which H and W may be None; None where it is not told.
      whole: whether it takes whole numbers.
      version: of the model; None where it is not told.
    """

    image_shape: tuple[int | None, ...] | None = None
    whole: bool = False
    version: str | None = None


def describe(url: str) -> Description:
    """Asks for the metadata of a model.

    Raises:
      UserError: nobody answers, or the model takes no images.
    """
    return _described(_Connection(url))


def _described(connection: _Connection) -> Description:
    status, answer = connection.ask("GET", connection.path.removesuffix(":predict") + "/metadata")
    if status != http.client.OK:
        return Description()  # a service that only predicts
    try:
        found = json.loads(answer)
        (takes,) = found["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"].values()
        shape = [int(axis["size"]) for axis in takes["tensor_shape"]["dim"]]
        whole, version = "INT" in str(takes["dtype"]), str(found["model_spec"]["version"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Description()
    return Description(checked_shape(connection.label, shape) if shape else None, whole, version)


class Endpoint(Predictor):
    """A service, which gets batches one after the other."""

    def __init__(self, url: str, input_shape: tuple | None) -> None:
        """Asks the service what images it takes.

        Args:
          url: such as http://127.0.0.1:8501/v1/models/m:predict.
          input_shape: (H, W, C), where the service does not tell it.

        Raises:
          UserError: the address is wrong, or nobody answers.
          ValueError: the shape is not known.
        """
        self._connection = _Connection(url)
        self.label, description = self._connection.label, _described(self._connection)
        self.image_shape, self._whole = description.image_shape or input_shape, description.whole
        if self.image_shape and input_shape:
            self.image_shape = tuple(size or given for size, given in zip(self.image_shape, input_shape))
        if self.image_shape is None:
            raise ValueError(f"give input_shape, the (H, W, C) of the images that {self.label} takes.")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Predictor.__call__`."""
        size = max(1, min(MOST_AT_ONCE, _MOST_NUMBERS // math.prod(images.shape[1:])))
        parts = [self._predicted(images[start : start + size]) for start in range(0, len(images), size)]
        if len({(part.shape[1:], part.dtype.kind) for part in parts}) != 1:
            raise UserError(f"{self.label} returned predictions of different shapes or types.")
        return np.concatenate(parts)

    def _predicted(self, images: np.ndarray) -> np.ndarray:
        given = np.rint(images).astype(int) if self._whole else images
        body = json.dumps({"instances": given.tolist()}).encode()
        status, answer = self._connection.ask("POST", self._connection.path, body)
        if status != http.client.OK:
            raise UserError(f"{self.label} refuses the images (status {status}: {_excerpt(answer)}).")
        try:
            values = np.asarray(json.loads(answer)["predictions"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f'{self.label} must answer {{"predictions": [...]}}; it answered {_excerpt(answer)}.')
        if values.dtype.kind not in "iufb":
            raise UserError(f"{self.label} must return one row of numbers per image; it answered {_excerpt(answer)}.")
        if not values.ndim or len(values) != len(images):
            raise UserError(f"{self.label} got {len(images)} images and returned predictions of shape {values.shape}.")
        return values


class _Connection:
    """Asks one host, again where it drops a connection or fails, and one question at a time."""

    def __init__(self, url: str) -> None:
        """Opens nothing yet; raises UserError where the address is wrong."""
        parts = check(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http = kind(str(parts.hostname), parts.port, timeout=_TIMEOUT)
        self.path, self.label = parts.path, url
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, answer); the status is below 500.

        Raises:
          UserError: there was no answer in all attempts, or the service redirects, or the answer is too long.
        """
        with self._lock:
            for wait in (*_WAITS, None):
                try:
                    status, answer = self._once(method, path, body)
                    if status < http.client.INTERNAL_SERVER_ERROR and status != _BUSY:
                        return status, answer
                    reason = f"status {status}: {_excerpt(answer)}"
                except TimeoutError:
                    reason = f"no answer within {_TIMEOUT:g} seconds"
                except (OSError, http.client.HTTPException) as error:
                    reason = str(error) or type(error).__name__
                self._http.close()
                if wait is not None:
                    LOG.debug("%s: %s; asking again in %g seconds", self.label, reason, wait)
                    time.sleep(wait)
        raise UserError(f"{self.label} does not work, after {len(_WAITS) + 1} attempts ({reason}).")

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        self._http.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self._http.getresponse()
        answer = response.read(_MOST_BYTES + 1)
        expected = response.getheader("Content-Length")
        if len(answer) > _MOST_BYTES:
            self._http.close()
            raise UserError(f"{self.label} answered with more than {_MOST_BYTES:,} bytes.")
        if expected is not None and expected.isdigit() and len(answer) < int(expected):
            raise http.client.IncompleteRead(answer, int(expected) - len(answer))
        if 300 <= response.status < 400:
            raise UserError(f"{self.label} sends to {response.getheader('Location')}, which is not followed: name it.")
        return response.status, answer


def _excerpt(answer: bytes) -> str:
    """The error that an answer names, or its beginning."""
    text = answer.decode(errors="replace")
    try:
        text = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return repr(" ".join(text.split())[:100])
