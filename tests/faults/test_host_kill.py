"""One of two hosts killed at any moment: the other one ends, and the same commands end as an uninterrupted run."""

import json
import random
import signal
import subprocess
import time

import pytest

from tests.faults.harness import Run, free_ports, one_line, wait_for

KILLS = 10
ENDS_WITHIN = 30  # seconds
SETTINGS = ("--sync_batchnorm", "--epochs=6", "--patience=6", "--stage=attack", "--attacks=pgd(steps=5)")


def start(run):
    """Two hosts, the chief first."""
    hosts = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = ({"cluster": hosts, "task": {"type": "worker", "index": index}} for index in range(2))
    return [run.start(*SETTINGS, TF_CONFIG=json.dumps(task)) for task in tasks]


@pytest.mark.long
def test_a_host_killed_at_a_random_moment(tmp_path, data_dir, tally):
    unbroken = Run(tmp_path / "unbroken", data_dir)
    chief, other = start(unbroken)
    wait_for(chief, "models/resnet_tiny/baseline")
    started = time.monotonic()
    assert [process.communicate() and process.returncode for process in (chief, other)] == [0, 0]
    span = time.monotonic() - started
    moments, slowest = random.Random(0), 0.0
    for number in range(KILLS):
        run = Run(tmp_path / f"run{number}", data_dir)
        processes = start(run)
        wait_for(processes[0], "models/resnet_tiny/baseline")
        time.sleep(moments.uniform(0, span))
        killed = moments.randrange(2)
        processes[killed].send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        survivor = processes[1 - killed]
        errors = survivor.communicate(timeout=ENDS_WITHIN)[1]
        slowest = max(slowest, time.monotonic() - killed_at)
        processes[killed].communicate()
        if survivor.returncode != 0:  # otherwise it had finished before
            ended = subprocess.CompletedProcess(survivor.args, survivor.returncode, stderr=errors)
            assert "another worker of this run is gone" in one_line(ended)
            tally["hosts killed, whose other host ended with one line"] += 1
        resumed = start(run)
        errors = [process.communicate()[1] for process in resumed]
        assert [process.returncode for process in resumed] == [0, 0], errors
        assert run.contents() == unbroken.contents()
        assert not list(run.workdir.rglob(".tmp-*"))
        tally["hosts killed, all resumed to the same files"] += 1
    tally["seconds until the other host had ended, at most"] = round(slowest, 1)
