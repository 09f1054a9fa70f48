"""Hosts that lose each other, or that do not share a disk; each host is a process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.harness import ROOT, free_ports, wait_for
from tests.network import HOSTS, inside, set_link
from tfadv.main import main
from tfadv.runtime import signals

SETTINGS = ("--flagfile=smoke", "--epochs=60", "--patience=60", "--stage=train")


@pytest.fixture
def start():
    """A function that starts host `number` of those with these addresses; it ends with the test."""
    started = []

    def start(number, hosts, workdir, data_dir, prefix=()):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": number}}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tfadv.main", *SETTINGS, f"--workdir={workdir}", f"--data_dir={data_dir}"],
            cwd=ROOT, env=os.environ | {"TF_CONFIG": json.dumps(config)},
            text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def closing_line(process, seconds):
    """The only line of tfadv with which a process ends in so many seconds."""
    errors = process.communicate(timeout=seconds)[1]
    assert process.returncode == 1 and "Traceback" not in errors, errors[-3000:]
    (line,) = (line for line in errors.splitlines() if line.startswith("tfadv: "))
    return line


@pytest.mark.long
def test_hosts_without_a_common_disk_are_told(start, tmp_path, data_dir):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    chief, other = (start(i, hosts, tmp_path / f"disk{i}" / "run", data_dir) for i in range(2))
    assert "not all hosts see the work folder" in closing_line(chief, 120)
    assert "this host does not see the work folder" in closing_line(other, 30)
    assert not list((tmp_path / "disk0").rglob(".shared-*"))


def test_status_does_not_wait_for_the_other_hosts(monkeypatch, tmp_path, data_dir, capsys):
    config = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    try:
        assert (
            main(["--flagfile=smoke", f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}", "--stage=status"]) == 0
        )
    finally:
        signals.uninstall()
    assert "missing" in capsys.readouterr().out


@pytest.mark.long
def test_hosts_whose_network_is_cut_both_end(start, namespaces, tmp_path, data_dir):
    chief, other = (start(i, HOSTS, tmp_path / "run", data_dir, inside(name)) for i, name in enumerate(namespaces))
    wait_for(chief, "epoch  2/")
    cut = time.monotonic()
    set_link(namespaces[:1], "down")
    for process in (chief, other):
        assert "another worker of this run is gone" in closing_line(process, 60)
    assert time.monotonic() < cut + 30  # 14 s where no other process slows this down
