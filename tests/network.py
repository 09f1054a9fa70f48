"""Hosts with addresses of their own: network namespaces with a link between them."""

import contextlib
import subprocess
import uuid

HOSTS = ("10.99.0.1:2222", "10.99.0.2:2222")


@contextlib.contextmanager
def linked_namespaces():
    """The names of two network namespaces, in which the hosts of `HOSTS` can run.

    Raises:
      subprocess.CalledProcessError: this process may not create them.
    """
    names = [f"tfadv{uuid.uuid4().hex[:6]}" for _ in HOSTS]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(*f"link add eth netns {names[0]} type veth peer name eth netns {names[1]}".split())
        for name, host in zip(names, HOSTS, strict=True):
            ip("-n", name, "address", "add", f"{host.split(':')[0]}/24", "dev", "eth")
            ip("-n", name, "link", "set", "lo", "up")
        set_link(names, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def inside(namespace):
    """The beginning of a command line that runs in a namespace."""
    return ["ip", "netns", "exec", namespace]


def set_link(namespaces, state):
    """Sets both ends of the link "up" or "down"."""
    for name in namespaces:
        ip("-n", name, "link", "set", "eth", state)


def limit_rate(namespaces, rate):
    """Limits both ends of the link to a rate such as "1mbit"."""
    for name in namespaces:
        command = f"tc -n {name} qdisc add dev eth root tbf rate {rate} burst 16kb latency 1s"
        subprocess.run(command.split(), check=True, capture_output=True, text=True)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
