"""Two hosts: if one is killed or the network is cut, the remaining hosts exit with one line, and a restart gives the
files of an uninterrupted run; so does a slow link."""

import random
import signal
import subprocess
import time

import pytest

from tests import network
from tests.faults.harness import Run, one_line, wait_for

LOSSES = 10
ENDS_WITHIN = 120  # seconds, on a busy machine
SETTINGS = ("--epochs=6", "--patience=6", "--stage=attack", "--attacks=pgd(steps=5)")
BEGINS = "models/resnet_tiny/baseline"


@pytest.fixture
def start():
    """A function that starts both hosts of a run; they end with the test."""
    started = []

    def start(run, namespaces=()):
        started.extend(run.start_hosts(*SETTINGS, namespaces=namespaces))
        return started[-2:]

    yield start
    for process in started:
        process.kill()


def ended(processes, seconds=ENDS_WITHIN):
    """What each process wrote until it exited."""
    return [process.communicate(timeout=seconds)[1] for process in processes]


def finish(processes, seconds=ENDS_WITHIN):
    errors = ended(processes, seconds)
    assert [process.returncode for process in processes] == [0, 0], errors


def uninterrupted(start, workdir, data_dir):
    """(a run on two hosts, its seconds from the first training on)."""
    run = Run(workdir, data_dir)
    processes = start(run)
    wait_for(processes[0], BEGINS)
    started = time.monotonic()
    finish(processes)
    return run, time.monotonic() - started


@pytest.mark.long
@pytest.mark.parametrize("event", ["killed", "cut off"])
def test_a_host_lost_at_a_random_moment(event, request, start, tmp_path, data_dir, tally):
    namespaces = request.getfixturevalue("namespaces") if event == "cut off" else ()
    complete, span = uninterrupted(start, tmp_path / "complete", data_dir)
    moments, slowest, running = random.Random(0), 0.0, 0
    for number in range(LOSSES):
        run = Run(tmp_path / f"run{number}", data_dir)
        processes = start(run, namespaces)
        wait_for(processes[0], BEGINS)
        time.sleep(moments.uniform(0, span))
        remaining = list(processes)
        lost_at = time.monotonic()
        if event == "killed":
            killed = remaining.pop(moments.randrange(2))
            killed.send_signal(signal.SIGKILL)
            ended([killed])
        elif number % 2:
            network.lose_packets(namespaces)
        else:
            network.set_link(namespaces[:1], "down")
        errors = ended(remaining)
        slowest = max(slowest, time.monotonic() - lost_at)
        unfinished = [(process, text) for process, text in zip(remaining, errors, strict=True) if process.returncode]
        for process, text in unfinished:
            done = subprocess.CompletedProcess(process.args, process.returncode, stderr=text)
            assert "another worker of this run is gone" in one_line(done)
        running += bool(unfinished)
        for state in ("down", "up"):  # also forgets where packets were sent
            network.set_link(namespaces, state)
        finish(start(run, namespaces))
        assert run.contents() == complete.contents()
        assert not list(run.workdir.rglob(".tmp-*"))
    assert running >= LOSSES / 2
    tally[f"runs with a host {event}"] += LOSSES
    tally[f"runs with a host {event} while another one was running, which exited with one line"] += running
    tally[f"most seconds until the other hosts had exited, host {event}"] = round(slowest, 1)


@pytest.mark.long
def test_a_slow_link_gives_the_same_results(start, namespaces, tmp_path, data_dir, tally):
    complete, seconds = uninterrupted(start, tmp_path / "complete", data_dir)
    try:
        network.limit_rate(namespaces, "1mbit")
    except network.NotPermitted as error:
        pytest.skip(str(error))
    run = Run(tmp_path / "run", data_dir)
    processes = start(run, namespaces)
    wait_for(processes[0], BEGINS)
    started = time.monotonic()
    finish(processes, 600)
    over_slow_link = time.monotonic() - started
    assert run.contents() == complete.contents()
    sent, delayed = network.bytes_sent(namespaces[0])
    assert delayed > 100
    tally["kB that the chief sent over 1 Mbit/s"] = sent // 1000
    tally["seconds over 1 Mbit/s"] = round(over_slow_link)
    tally["seconds over the loopback interface"] = round(seconds)
