"""Memory of this process, on Linux."""

from __future__ import annotations

import pathlib
import re


def gigabytes(kind: str) -> float:
    """GB of memory of one kind in /proc/self/status, such as "VmRSS", "VmHWM" (the most so far) or "RssAnon".

    RssAnon leaves out the pages of files, which the system takes back when it needs them.  VmHWM is that of this
    process alone, unlike `ru_maxrss`, which a process inherits from the one that started it.
    """
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) / 1e6
