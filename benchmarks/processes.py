"""A process for each library, and `alternate`, which times several functions in turn."""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.libraries import LIBRARIES

PAUSE = 0.2  # seconds, in which the threads of the library before fall asleep


@dataclasses.dataclass(frozen=True)
class Timing:
    """The seconds of a call in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The shortest."""
        return min(self.seconds)

    @property
    def most(self) -> float:
        """The longest."""
        return max(self.seconds)


def alternate(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Times A B C A B C, after one call of each to warm up, so that other work on the machine affects all alike.

    Args:
      calls: name → function that returns the seconds that it measured.
      rounds: at least 1.

    Returns:
      name → timing.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            seconds[name].append(call())
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def time_calls(function: Callable[[], Any], least_seconds: float) -> tuple[float, Any]:
    """Calls a function once, and again until so many seconds have passed; (mean seconds per call, the last result)."""
    started, calls, passed = time.perf_counter(), 0, 0.0
    while calls == 0 or passed < least_seconds:
        result = function()
        calls, passed = calls + 1, time.perf_counter() - started
    return passed / calls, result


class Failed(Exception):
    """A library raised an exception, which the message quotes."""


class Worker:
    """A library in a process of its own.

    Attributes:
      name: a name in `LIBRARIES`.
    """

    def __init__(self, name: str) -> None:
        """Starts the process."""
        context = multiprocessing.get_context("spawn")  # neither TensorFlow nor PyTorch survives a fork
        self.name = name
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, name), daemon=True)
        self._process.start()

    def call(self, method: str, *, return_result: bool = True, least_seconds: float = 0.0, **arguments: Any) -> tuple:
        """Calls a method of the library.

        Args:
          method: its name.
          return_result: whether to send the result to this process.
          least_seconds: repeat the call until so many seconds have passed.
          **arguments: of the method.

        Returns:
          (mean seconds per call, the result or None).

        Raises:
          Failed: the library raised an exception.
        """
        self._pipe.send((method, arguments, return_result, least_seconds))
        seconds, result, error = self._pipe.recv()
        if error:
            raise Failed(error)
        return seconds, result

    def timed(self, method: str, least_seconds: float = 0.0, **arguments: Any) -> Callable[[], float]:
        """A function for `alternate`: calls a method and returns its seconds."""
        return lambda: self.call(method, return_result=False, least_seconds=least_seconds, **arguments)[0]

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: multiprocessing.connection.Connection, name: str) -> None:
    """Runs in the process of a library: calls its methods as the parent asks."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stdout = open(os.devnull, "w")  # progress of training runs
    library = LIBRARIES[name].load()()
    while (message := pipe.recv()) is not None:
        method, arguments, return_result, least_seconds = message
        try:
            seconds, result = time_calls(lambda: getattr(library, method)(**arguments), least_seconds)  # noqa: B023
            pipe.send((seconds, result if return_result else None, None))
        except Exception as error:  # becomes a remark in the library's row
            traceback.print_exc()
            pipe.send((0.0, None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
