"""One of two hosts is killed at a random moment: the other one exits with one line, and starting both again gives the
files of an uninterrupted run."""

import random
import signal
import subprocess
import time

import pytest

from tests.faults.harness import Run, one_line, wait_for

KILLS = 10
ENDS_WITHIN = 120  # seconds, on a busy machine
SETTINGS = ("--sync_batchnorm", "--epochs=6", "--patience=6", "--stage=attack", "--attacks=pgd(steps=5)")


@pytest.mark.long
def test_a_host_killed_at_a_random_moment(tmp_path, data_dir, tally):
    unbroken = Run(tmp_path / "unbroken", data_dir)
    chief, other = unbroken.start_hosts(*SETTINGS)
    wait_for(chief, "models/resnet_tiny/baseline")
    started = time.monotonic()
    errors = ended([chief, other])
    assert [chief.returncode, other.returncode] == [0, 0], errors
    span = time.monotonic() - started
    moments, slowest, running = random.Random(0), 0.0, 0
    for number in range(KILLS):
        run = Run(tmp_path / f"run{number}", data_dir)
        processes = run.start_hosts(*SETTINGS)
        wait_for(processes[0], "models/resnet_tiny/baseline")
        time.sleep(moments.uniform(0, span))
        killed = moments.randrange(2)
        processes[killed].send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        survivor = processes[1 - killed]
        (errors,) = ended([survivor])
        slowest = max(slowest, time.monotonic() - killed_at)
        processes[killed].communicate()
        if survivor.returncode != 0:  # otherwise it had finished before
            done = subprocess.CompletedProcess(survivor.args, survivor.returncode, stderr=errors)
            assert "another worker of this run is gone" in one_line(done)
            running += 1
        resumed = run.start_hosts(*SETTINGS)
        errors = ended(resumed)
        assert [process.returncode for process in resumed] == [0, 0], errors
        assert run.contents() == unbroken.contents()
        assert not list(run.workdir.rglob(".tmp-*"))
    assert running >= KILLS / 2
    tally["hosts killed, all resumed to the same files"] += KILLS
    tally["killed hosts whose peer was running, and exited with one line"] += running
    tally["most seconds until the peer had exited"] = round(slowest, 1)


def ended(processes):
    """What each process wrote until it exited; all are killed where one of them does not."""
    try:
        return [process.communicate(timeout=ENDS_WITHIN)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
