"""Hosts with addresses of their own: network namespaces with a link between them."""

import contextlib
import subprocess
import uuid

HOSTS = ("10.99.0.1:2222", "10.99.0.2:2222")


class NotPermitted(Exception):
    """This process may not create network namespaces, or this computer can't."""


@contextlib.contextmanager
def linked_namespaces():
    """The names of two network namespaces, in which the hosts of `HOSTS` can run; raises NotPermitted."""
    names = [f"tfadv{uuid.uuid4().hex[:6]}" for _ in HOSTS]
    try:
        try:
            for name in names:
                run("ip", "netns", "add", name)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPermitted(str(error)) from error
        run(*f"ip link add eth netns {names[0]} type veth peer name eth netns {names[1]}".split())
        for name, host in zip(names, HOSTS, strict=True):
            run("ip", "-n", name, "address", "add", f"{host.split(':')[0]}/24", "dev", "eth")
            run("ip", "-n", name, "link", "set", "lo", "up")
        set_link(names, "up")
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def inside(namespace):
    """The beginning of a command line that runs in a namespace."""
    return ["ip", "netns", "exec", namespace]


def set_link(namespaces, state):
    """Sets the ends of the link in these namespaces "up" or "down"."""
    for name in namespaces:
        run("ip", "-n", name, "link", "set", "eth", state)


def lose_packets(namespaces):
    """Sends all packets to a hardware address that does not exist, until the link is set down: no host is told."""
    for name, host in zip(namespaces, reversed(HOSTS), strict=True):
        nowhere = f"neigh replace {host.split(':')[0]} lladdr 02:00:00:00:00:01 nud permanent dev eth"
        run("ip", "-n", name, *nowhere.split())


def limit_rate(namespaces, rate):
    """Limits both ends of the link to a rate such as "1mbit"; raises NotPermitted where the kernel can't."""
    try:
        for name in namespaces:
            run(*f"tc -n {name} qdisc add dev eth root tbf rate {rate} burst 16kb latency 1s".split())
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPermitted(str(error)) from error


def bytes_sent(namespace):
    """Bytes that left this end of the link since `limit_rate`, and how often the limit delayed them."""
    fields = run("tc", "-s", "-n", namespace, "qdisc", "show", "dev", "eth").split()
    return int(fields[fields.index("Sent") + 1]), int(fields[fields.index("overlimits") + 1])


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
