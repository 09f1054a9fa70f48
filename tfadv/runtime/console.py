"""What appears on the terminal: tfadv's own messages first, without TensorFlow's start-up lines."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from absl import logging as absl_logging

_LEVELS = {"quiet": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}

# Lines that TensorFlow writes while it is loaded, whatever TF_CPP_MIN_LOG_LEVEL says: notes about the CPU and the
# libraries, and on some GPU builds complaints about its own double registrations.
_STARTUP = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|I\d{4} |\d{4}-\d\d-\d\d \S+ I |To enable the following instructions:"
    rb"|.*(Unable to register cu\w+ factory|computation placer already registered)"
)
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"
_NO_GPU = re.compile(rb".*failed call to cuInit")

STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}  # ANSI codes

_quiet = False
_stderr_descriptor = 2


def configure_logging(verbosity: str) -> None:
    """Chooses what is written to the terminal, on standard error.

    Args:
      verbosity: "quiet" (warnings only, no progress bars), "info", or "debug" (also TensorFlow's own messages);
        anything else is taken as "info", for it is called before the settings are checked.
    """
    global _quiet
    _quiet = verbosity == "quiet"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may lack a character, which is no reason to fail
    debug = verbosity == "debug"
    handler = _Handler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s {'%(name)s: ' if debug else ''}%(message)s", "%H:%M:%S"))
    logger = logging.getLogger("tfadv")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(_LEVELS.get(verbosity, logging.INFO))
    absl_logging.set_verbosity(absl_logging.INFO if debug else absl_logging.WARNING)
    absl_logging.get_absl_logger().removeFilter(_not_about_tfds_itself)
    if not debug:
        absl_logging.get_absl_logger().addFilter(_not_about_tfds_itself)
        # TensorFlow's C++ code calls an error what it goes on from, such as an optimizer of graphs that gives up.  What
        # it does not go on from reaches Python as an exception, and what ends the process is shown at every level.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _not_about_tfds_itself(record: logging.LogRecord) -> bool:
    """Leaves out the warnings of TFDS 4.9 about its own use of its own deprecated attributes."""
    return "`FeatureConnector.dtype` is deprecated" not in record.getMessage()


def warn_of_unused_gpu(gpus: int) -> None:
    """Warns where there is an NVIDIA driver and TensorFlow has found no GPU: its own message about it is left out."""
    hidden_by_user = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if not gpus and not hidden_by_user and os.path.exists(_NVIDIA_DRIVER):
        logging.getLogger("tfadv").warning(
            "there is an NVIDIA driver, but TensorFlow finds no GPU and uses the CPU; --verbosity=debug shows why"
        )


def progress_disabled() -> bool | None:
    """Returns tqdm's `disable`: True under --verbosity=quiet; otherwise None, no bars where there is no terminal."""
    return True if _quiet else None


def styled(text: str, style: str) -> str:
    """Returns a text for standard output in a style of `STYLES`; unchanged without a terminal, or with NO_COLOR."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return f"\033[{STYLES[style]}m{text}\033[0m" if on_terminal and not os.environ.get("NO_COLOR") else text


def started(text: str) -> None:
    """Says what was started: on a terminal, until the next line appears; in a log, as a line of its own."""
    if _quiet:
        return
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text} …")
        sys.stderr.flush()
    else:
        logging.getLogger("tfadv").info("%s …", text)


class _Handler(logging.StreamHandler):
    """Writes a record in place of what `started` left on the line."""

    def emit(self, record: logging.LogRecord) -> None:
        if self.stream.isatty():
            self.stream.write("\r\033[K")
        super().emit(record)


def duration(seconds: float) -> str:
    """Returns a duration in words, such as "45 s", "6 min" or "1 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def stderr_descriptor() -> int:
    """Returns the file descriptor of standard error, also within `startup_lines_hidden`; for `os.write`."""
    return _stderr_descriptor


@contextlib.contextmanager
def startup_lines_hidden(hidden: bool = True) -> Iterator[None]:
    """Leaves TensorFlow's start-up lines out of standard error within this block, which should load TensorFlow.

    Its C++ code writes them before its logging can be configured.  Everything
    else that is written to standard error is shown when the block ends.

    Args:
      hidden: False changes nothing.
    """
    global _stderr_descriptor
    try:
        original = os.dup(2) if hidden else -1
    except OSError:  # standard error is closed
        original = -1
    if original < 0:
        yield
        return
    with tempfile.TemporaryFile() as captured, os.fdopen(original, "wb", buffering=0) as terminal:
        _flush()
        os.dup2(captured.fileno(), 2)
        _stderr_descriptor = original
        try:
            yield
        finally:
            _flush()
            os.dup2(original, 2)
            _stderr_descriptor = 2
            captured.seek(0)
            terminal.writelines(line for line in captured if not _is_startup_line(line))


def _flush() -> None:
    if sys.stderr is not None:  # as under pythonw
        sys.stderr.flush()


def _is_startup_line(line: bytes) -> bool:
    if _STARTUP.match(line):
        return True
    # Without an NVIDIA driver this says only that there is no GPU; with one, it is a real problem.
    return bool(_NO_GPU.match(line)) and not os.path.exists(_NVIDIA_DRIVER)
