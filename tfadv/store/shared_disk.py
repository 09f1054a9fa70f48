"""Whether all hosts of a distributed run see the same work folder."""

from __future__ import annotations

import pathlib
import secrets
import time
from collections.abc import Callable

from tfadv.errors import UserError
from tfadv.store.workdir import Workdir

_SECONDS_TO_APPEAR = 10.0


def check_shared(workdir: Workdir, sum_over_workers: Callable[[float], float]) -> None:
    """Checks that all workers see the work folder of the chief; all of them call it.

    The chief creates a file whose name has a random number, and tells the number to the others.

    Args:
      workdir: the work folder.
      sum_over_workers: function that waits for all workers and returns the sum of their numbers, exact up to 2^24.

    Raises:
      UserError: one of them does not see it; raised on all of them.
    """
    number = 0 if workdir.follower else secrets.randbelow(2**24 - 1) + 1
    own = workdir.root / f".shared-{number}"
    try:
        if number:
            own.touch()
        number_of_chief = round(sum_over_workers(number))
        missing = not _appears(workdir.root / f".shared-{number_of_chief}")
        anyone_misses_it = sum_over_workers(missing) > 0
    finally:
        own.unlink(missing_ok=True)
    if anyone_misses_it:
        host = "this host does not" if missing else "not all hosts"
        raise UserError(
            f"{host} see the work folder {workdir.root} of the first host: --workdir must be on a disk that all hosts "
            "share."
        )


def _appears(path: pathlib.Path) -> bool:
    """Whether a file exists within some seconds, which a network file system may take to show it."""
    end = time.monotonic() + _SECONDS_TO_APPEAR
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
