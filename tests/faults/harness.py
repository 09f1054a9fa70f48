"""tfadv in processes of its own, to be killed, and what to look at afterwards."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from tests import commands, network

ROOT = pathlib.Path(__file__).parents[2]


class Run:
    """tfadv on the embedded digits with the tiny model, in a work folder."""

    def __init__(self, workdir, data_dir):
        self.workdir, self.data_dir = pathlib.Path(workdir), data_dir

    def flags(self, *more):
        return ["--flagfile=smoke", f"--workdir={self.workdir}", f"--data_dir={self.data_dir}", *more]

    def command(self, *more):
        return [sys.executable, "-m", "tfadv.main", *self.flags(*more)]

    def __call__(self, *more):
        return commands.run(self.flags(*more))

    def start(self, *more, prefix=(), **environment):
        return subprocess.Popen(
            [*prefix, *self.command(*more)], cwd=ROOT, env=os.environ | environment,
            text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            # Background processes of a shell ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    def start_hosts(self, *more, number=2, namespaces=()):
        """The processes of one distributed run, the chief first; in `namespaces`, if given, without `number`."""
        if namespaces:
            pairs = zip(host_configs(network.HOSTS), map(network.inside, namespaces), strict=True)
        else:
            pairs = ((config, ()) for config in local_host_configs(number))
        return [self.start(*more, prefix=prefix, TF_CONFIG=config) for config, prefix in pairs]

    def manifests(self):
        """Those of complete entries."""
        found = self.workdir.rglob("manifest.json")
        return [path for path in found if not any(part.startswith((".tmp-", ".scratch-")) for part in path.parts)]

    def contents(self):
        """dict of entry → content hash, without the report, whose plots need not be the same."""
        return {
            str(path.parent.relative_to(self.workdir)): json.loads(path.read_text())["content"]
            for path in self.manifests()
            if "report" not in path.parts
        }

    def dates(self):
        """dict of manifest → when it was written, to see what is built again."""
        return {path: path.stat().st_mtime_ns for path in self.manifests()}


def one_line(finished):
    """The line with which a failed run ended; fails where there is a traceback, or another number of lines."""
    assert finished.returncode not in (0, None) and "Traceback" not in finished.stderr, finished.stderr[-2000:]
    lines = [line for line in finished.stderr.splitlines() if line.startswith("tfadv: ")]
    assert len(lines) == 1, finished.stderr[-2000:]
    return lines[0]


def free_ports(number: int) -> list[int]:
    """Different ports of this machine that no process listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def local_host_configs(number: int) -> list[str]:
    """TF_CONFIG for each of the hosts of a distributed run, which are processes of this machine."""
    return host_configs([f"127.0.0.1:{port}" for port in free_ports(number)])


def host_configs(hosts: Sequence[str]) -> list[str]:
    """TF_CONFIG for each of the hosts with these addresses."""
    cluster = {"worker": list(hosts)}
    tasks = ({"type": "worker", "index": index} for index in range(len(hosts)))
    return [json.dumps({"cluster": cluster, "task": task}) for task in tasks]


def wait_for(process, text, seconds=120):
    """Reads a process' log until a line with the text; returns the lines read."""
    lines, end = [], time.monotonic() + seconds
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
        assert time.monotonic() < end
    raise AssertionError("ended before: " + "".join(lines)[-2000:])


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
