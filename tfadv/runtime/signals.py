"""Ctrl-C and SIGTERM: after the present step where there are steps, at once everywhere else."""

import contextlib
import logging
import signal

LOG = logging.getLogger(__name__)

_in_steps = False
_asked = None  # the signal that came while a step was under way


class Stopped(BaseException):
    """Somebody asked the process to end; no `Exception`, so that nothing on its way up takes it for a failure."""

    def __init__(self, number):
        """`number`: int, of the signal."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number  # as a shell has it


def install():
    """Turns SIGINT and SIGTERM into `Stopped`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(number, frame):
    global _asked
    if not _in_steps or _asked is not None:  # who asks twice does not want to wait
        raise Stopped(number)
    _asked = number
    LOG.info("stopping after this step; once more stops at once")


@contextlib.contextmanager
def in_steps():
    """Within this block a first signal waits: look at `asked` after each step, and call `stop` when all is saved."""
    global _in_steps
    _in_steps = True
    try:
        yield
    finally:
        _in_steps = False


def asked():
    """bool, whether to stop after this step."""
    return _asked is not None


def stop():
    """Raises `Stopped` where that was asked for."""
    if _asked is not None:
        raise Stopped(_asked)
