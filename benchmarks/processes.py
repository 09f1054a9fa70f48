"""A process for each contender, and measuring them by turns."""

import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
import traceback

# The module that a contender can't do without.
NEEDS = {
    "tfadv": "tensorflow",
    "torchattacks": "torchattacks",
    "CleverHans": "cleverhans",
    "Foolbox": "foolbox",
    "ART": "art",
}


PAUSE = 0.2  # seconds, for the threads of the one before to fall asleep


def installed():
    """list of str, the contenders that can run here."""
    return [name for name, module in NEEDS.items() if importlib.util.find_spec(module)]


def _serve(pipe, name):
    """The child: makes the contender and calls its methods as it is told."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from benchmarks import contenders, peers

    sys.stdout = open(os.devnull, "w")  # progress of training runs
    contender = contenders.Tfadv() if name == "tfadv" else peers.ALL[name]()
    while True:
        message = pipe.recv()
        if message is None:
            return
        method, arguments, wanted, least = message
        try:
            start, calls, seconds = time.perf_counter(), 0, 0.0
            while calls == 0 or seconds < least:
                result = getattr(contender, method)(**arguments)
                calls, seconds = calls + 1, time.perf_counter() - start
            pipe.send((seconds / calls, result if wanted else None, None))
        except Exception as error:  # whatever a peer stumbles over is a remark in its row
            traceback.print_exc()
            pipe.send((0.0, None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


class Failed(Exception):
    """A contender raised; the message is its own."""


class Contender:
    """A handle on a contender in its own process."""

    def __init__(self, name):
        context = multiprocessing.get_context("spawn")  # neither TensorFlow nor PyTorch survives a fork
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name), daemon=True)
        self._process.start()

    def call(self, method, wanted=True, least=0.0, **arguments):
        """Calls a method over there, again and again until `least` seconds are over.

        Returns:
          (seconds of a call, what it returned or None where that is not wanted).

        Raises:
          Failed: the contender raised.
        """
        self._pipe.send((method, arguments, wanted, least))
        seconds, result, error = self._pipe.recv()
        if error:
            raise Failed(error)
        return seconds, result

    def close(self):
        self._pipe.send(None)
        self._process.join()


def by_turns(calls, repeats):
    """Calls everyone once to warm up, and then A B C A B C, so that whatever else the machine does meets all alike.

    Args:
      calls: dict of name → function that returns seconds.
      repeats: int >= 1.

    Returns:
      dict of name → {"median", "least", "most"} in seconds.
    """
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            seconds[name].append(call())
    return {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in seconds.items()
    }
