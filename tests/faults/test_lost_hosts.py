"""Two hosts, one of which is killed, or whose network is cut or slow: who remains exits with one line, and starting
both again gives the files of an uninterrupted run."""

import random
import re
import signal
import subprocess
import time

import pytest

from tests import network
from tests.faults.harness import Run, one_line, wait_for

LOSSES = 10
ENDS_WITHIN = 120  # seconds, on a busy machine
SETTINGS = ("--sync_batchnorm", "--epochs=6", "--patience=6", "--stage=attack", "--attacks=pgd(steps=5)")
BEGINS = "models/resnet_tiny/baseline"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data_dir):
    """(an uninterrupted run on two hosts, its seconds from the first training on)."""
    run = Run(tmp_path_factory.mktemp("unbroken") / "run", data_dir)
    processes = run.start_hosts(*SETTINGS)
    wait_for(processes[0], BEGINS)
    started = time.monotonic()
    errors = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    return run, time.monotonic() - started


@pytest.mark.long
@pytest.mark.parametrize("event", ["killed", "cut off"])
def test_a_host_lost_at_a_random_moment(event, unbroken, request, tmp_path, data_dir, tally):
    namespaces = request.getfixturevalue("namespaces") if event == "cut off" else ()
    complete, span = unbroken
    moments, slowest, running = random.Random(0), 0.0, 0
    for number in range(LOSSES):
        run = Run(tmp_path / f"run{number}", data_dir)
        processes = run.start_hosts(*SETTINGS, namespaces=namespaces)
        wait_for(processes[0], BEGINS)
        time.sleep(moments.uniform(0, span))
        remaining = list(processes)
        lost_at = time.monotonic()
        if namespaces:
            network.set_link(namespaces, "down")
        else:
            killed = remaining.pop(moments.randrange(2))
            killed.send_signal(signal.SIGKILL)
        errors = ended(remaining)
        slowest = max(slowest, time.monotonic() - lost_at)
        ended([process for process in processes if process not in remaining])
        for process, text in zip(remaining, errors, strict=True):
            if process.returncode != 0:  # otherwise it had finished before
                done = subprocess.CompletedProcess(process.args, process.returncode, stderr=text)
                assert "another worker of this run is gone" in one_line(done)
        running += any(process.returncode != 0 for process in remaining)
        network.set_link(namespaces, "up")
        resumed = run.start_hosts(*SETTINGS, namespaces=namespaces)
        errors = ended(resumed)
        assert [process.returncode for process in resumed] == [0, 0], errors
        assert run.contents() == complete.contents()
        assert not list(run.workdir.rglob(".tmp-*"))
    assert running >= LOSSES / 2
    tally[f"hosts {event}, all resumed to the same files"] += LOSSES
    tally[f"hosts {event} while a peer was running, which exited with one line"] += running
    tally[f"most seconds until the peers of hosts {event} had exited"] = round(slowest, 1)


@pytest.mark.long
def test_a_slow_link_changes_nothing_but_the_time(unbroken, namespaces, tmp_path, data_dir, tally):
    network.limit_rate(namespaces, "1mbit")
    run = Run(tmp_path / "run", data_dir)
    processes = run.start_hosts(*SETTINGS, namespaces=namespaces)
    wait_for(processes[0], BEGINS)
    started = time.monotonic()
    errors = ended(processes, 600)
    assert [process.returncode for process in processes] == [0, 0], errors
    complete, seconds = unbroken
    assert run.contents() == complete.contents()
    statistics = subprocess.run(["tc", "-s", "-n", namespaces[0], "qdisc"], capture_output=True, text=True).stdout
    ((sent, delayed),) = re.findall(r"qdisc tbf .+?Sent (\d+) bytes.+?overlimits (\d+)", statistics, re.DOTALL)
    assert int(delayed) > 100  # packets that had to wait
    tally["kB that the chief sent over 1 Mbit/s"] = int(sent) // 1000
    tally["seconds over 1 Mbit/s"] = round(time.monotonic() - started)
    tally["seconds over the loopback interface"] = round(seconds)


def ended(processes, seconds=ENDS_WITHIN):
    """What each process wrote until it exited; all are killed where one of them does not."""
    try:
        return [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
