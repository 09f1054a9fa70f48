"""Ctrl-C and SIGTERM end the process within about two seconds, without losing finished work.

A signal raises `Stopped` in the main thread.  Within `in_steps`, where training
can save a checkpoint, it waits for the end of the present step.

Python runs signal handlers between two instructions of the main thread, but not
during a call of TensorFlow, such as a compilation or a long step.  A second
thread therefore watches for signals as well.  If the main thread does not
react in time, it prints the closing line and ends the process.  This is safe at
any moment, because results are written atomically.  It can do so in calls
that release Python's global interpreter lock, as those of TensorFlow do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from tfadv.runtime import console

LOG = logging.getLogger(__name__)
CLOSING_LINE = "stopped; what was finished is kept, and the same command continues from there."
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long the main thread has to take notice, before the process is ended.
SECONDS = 1.5
SECONDS_IN_STEPS = 30.0  # for a step of training, and for its checkpoint
SECONDS_SECOND_SIGNAL = 0.25
_POLL_SECONDS = 0.05


DEVICE_THREAD = "tfadv-device"  # the name of threads that run work for the main thread and may outlive it


def end_process(code: int) -> NoReturn:
    """Exits with this code.

    Where a thread is still inside of TensorFlow, which may not survive the end of Python, the process ends at once.
    """
    if any(thread.name == DEVICE_THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Stopped(BaseException):
    """The process was asked to end.  Not an `Exception`, so that nothing on its way up treats it as a failure.

    Attributes:
      exit_code: 128 + the number of the signal, as a shell reports it.
    """

    def __init__(self, number: int) -> None:
        """`number`: of the signal."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class _Watcher:
    """The signal handlers, and the thread that watches whether the main thread runs them.

    Attributes:
      in_steps: whether a first signal waits.
      waiting: the signal that waits for the end of a step, or None.
      last_progress: when the main thread last made progress in steps, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.in_steps = False
        self.waiting: int | None = None
        self.last_progress = 0.0
        self._received = self._handled = 0  # signals that the watching thread, and the main thread, have seen
        self._replaced: dict[int, Any] = {}
        self._replaced_descriptor = -1
        # Python's own C code writes the number of each signal to this socket, whatever the main thread is doing.
        self._sender, self._receiver = socket.socketpair()
        self._sender.setblocking(False)

    def install(self) -> None:
        for number in SIGNALS:
            replaced = signal.signal(number, self._on_signal)
            self._replaced.setdefault(number, replaced)
        descriptor = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        if descriptor != self._sender.fileno():
            self._replaced_descriptor = descriptor

    def start(self) -> None:
        threading.Thread(target=self._watch, name="tfadv-signals", daemon=True).start()

    def uninstall(self) -> None:
        signal.set_wakeup_fd(self._replaced_descriptor)
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._sender.close()  # ends the thread

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread."""
        self._handled += 1
        if not self.in_steps or self._handled > 1:
            self.waiting = None
            raise Stopped(number)
        self.last_progress = time.monotonic()
        self.waiting = number
        LOG.info("stopping after this step; a second signal stops at once")

    def _watch(self) -> None:
        """Runs in the watching thread, until the sender is closed."""
        number, arrived = 0, 0.0
        while True:
            busy = self._received > self._handled or self.waiting is not None
            self._receiver.settimeout(_POLL_SECONDS if busy else None)
            try:
                byte = self._receiver.recv(1)
            except TimeoutError:
                byte = b"\0"
            if not byte:
                self._receiver.close()
                return
            if byte[0] in SIGNALS and signal.getsignal(byte[0]) == self._on_signal:  # a debugger may have its own
                number, arrived = byte[0], time.monotonic()
                self._received += 1
            if time.monotonic() > self._deadline(arrived):
                _end(number)

    def _deadline(self, arrived: float) -> float:
        """When to end the process, given when the newest signal arrived."""
        if self._received > self._handled:
            if self._received > 1:
                return arrived + SECONDS_SECOND_SIGNAL
            return arrived + (SECONDS_IN_STEPS if self.in_steps else SECONDS)
        return self.last_progress + SECONDS_IN_STEPS if self.waiting is not None else float("inf")


_watcher: _Watcher | None = None


def install() -> None:
    """Turns SIGINT and SIGTERM into `Stopped`; again, where a library has replaced the handlers since.

    Raises:
      ValueError: this is not the main thread.
    """
    global _watcher
    if _watcher is not None:
        _watcher.install()
        return
    watcher = _Watcher()
    watcher.install()
    watcher.start()
    _watcher = watcher


def uninstall() -> None:
    """Restores the handlers that were there before."""
    global _watcher
    if _watcher is not None:
        _watcher.uninstall()
        _watcher = None


@contextlib.contextmanager
def in_steps() -> Iterator[None]:
    """Within this block a first signal waits: look at `asked` after each step, and call `stop` when all is saved."""
    watcher = _watcher
    if watcher is None:  # signals do what they do without tfadv
        yield
        return
    watcher.in_steps = True
    try:
        yield
    finally:
        watcher.in_steps = False
        watcher.last_progress = time.monotonic()


def asked() -> bool:
    """Whether to stop after this step.  A process that does not call it for 30 seconds after a signal is ended."""
    if _watcher is None:
        return False
    _watcher.last_progress = time.monotonic()
    return _watcher.waiting is not None


def stop() -> None:
    """Raises `Stopped` where a signal has been waiting."""
    if _watcher is not None and _watcher.waiting is not None:
        number, _watcher.waiting = _watcher.waiting, None
        raise Stopped(number)


def _end(number: int) -> None:
    """Ends the process from the watching thread."""
    descriptor = console.stderr_descriptor()
    with contextlib.suppress(OSError):  # sys.stderr may be locked by the main thread
        line = "\n" if os.isatty(descriptor) else ""  # a progress bar has not ended its line
        os.write(descriptor, f"{line}tfadv: {CLOSING_LINE}\n".encode())
    os._exit(128 + number)


def _after_fork() -> None:
    """A child has neither the thread nor a need to report its signals to its parent's."""
    global _watcher
    if _watcher is not None:
        signal.set_wakeup_fd(-1)
        _watcher = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
