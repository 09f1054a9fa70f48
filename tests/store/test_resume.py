"""The log of unfinished work: what was saved comes back, damage is noticed, a kill at any moment loses little."""

import logging
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tfadv.store import files, resume
from tfadv.store.resume import ResumeLog

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.lists(
    st.sampled_from([np.bool_, np.int8, np.uint8, np.int64, np.float16, np.float32, np.float64]).flatmap(
        lambda dtype: arrays_of.arrays(dtype, SHAPES)
    ),
    max_size=3,
)


def assert_same(saved, expected):
    assert len(saved) == len(expected)
    for one, other in zip(saved, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def every(tmp_path):
    """Function that opens a log which saves whenever it is asked to."""
    return lambda: ResumeLog(tmp_path, interval=0)


def test_a_new_log_is_empty(every):
    assert every().load() is None


def test_finished_and_partial_units_come_back_in_order(every, tmp_path):
    log = every()
    for unit in range(3):
        assert log.load() is None
        for step in (9, 10):
            log.partial(step, lambda unit=unit, step=step: [np.array([unit, step])])
        if unit < 2:
            log.done([np.full(2, unit, np.float32), np.array(unit)])
    assert len(list(tmp_path.iterdir())) == 3  # one file per unit
    log = every()
    for unit in range(2):
        kind, saved = log.load()
        assert kind == "done"
        assert_same(saved, [np.full(2, unit, np.float32), np.array(unit)])
    kind, step, saved = log.load()
    assert (kind, step) == ("partial", 10)
    assert_same(saved, [np.array([2, 10])])
    log.done([np.array(2)])
    assert log.load() is None
    assert len(list(tmp_path.iterdir())) == 3


def test_writes_at_the_interval_and_loses_no_finished_unit_by_that(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    log, calls = ResumeLog(tmp_path, interval=20.0), []
    for unit in range(5):
        log.load()
        log.partial(1, lambda: calls.append(1) or [])
        log.done([np.array(unit)])
    assert not calls and not list(tmp_path.iterdir())
    now = 20.0
    log.load()
    log.partial(7, lambda: calls.append(1) or [np.array(5)])
    log.partial(8, lambda: calls.append(1) or [np.array(5)])
    assert len(calls) == 1 and len(list(tmp_path.iterdir())) == 6
    log = ResumeLog(tmp_path)
    assert [log.load()[0] for _ in range(6)] == ["done"] * 5 + ["partial"]


def test_a_result_is_copied(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    log, result = ResumeLog(tmp_path), np.zeros(2)
    log.load()
    log.done([result])
    result += 1  # the caller goes on with its array
    now = 20.0
    log.load()
    log.partial(1, list)
    assert_same(ResumeLog(tmp_path).load()[1], [np.zeros(2)])


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([None]), np.zeros(2, "V2")])
def test_what_would_not_come_back_is_refused(every, array):
    log = every()
    log.load()
    with pytest.raises(ValueError, match="can't be saved"):
        log.done([array])


def write(folder, finished, state):
    log = ResumeLog(folder, interval=0)
    for result in finished:
        log.load()
        log.done(result)
    log.load()
    log.partial(3, lambda: state)


def damage(path, kind, place):
    content = path.read_bytes()
    place %= len(content)
    if kind == "truncate":
        path.write_bytes(content[:place])
    elif kind == "flip":
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
    elif kind == "append":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    finished=st.lists(ARRAYS, max_size=4),
    state=ARRAYS,
    harm=st.tuples(st.sampled_from(["truncate", "flip", "append", "remove"]), st.integers(0, 4), st.integers(0, 10**9)),
)
def test_what_comes_before_damage_is_served_and_nothing_else(finished, state, harm):
    kind, unit, place = harm
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder, finished, state)
        paths = sorted(folder.iterdir())
        harmed = unit % len(paths)
        damage(paths[harmed], kind, place)
        log = ResumeLog(folder, interval=0)
        for result in finished[:harmed]:
            served, saved = log.load()
            assert served == "done"
            assert_same(saved, result)
        assert log.load() is None
        if harmed < len(finished):
            log.done(finished[harmed])
        assert len(list(folder.iterdir())) == harmed + (harmed < len(finished))
        write(folder, finished, state)  # the same computation, to its end
        log = ResumeLog(folder)
        for result in finished:
            assert_same(log.load()[1], result)


def test_a_damaged_file_is_logged(every, tmp_path, caplog):
    write(tmp_path, [[np.zeros(3)]], [])
    damage(sorted(tmp_path.iterdir())[0], "truncate", 50)
    with caplog.at_level(logging.INFO):
        assert every().load() is None
    assert "is damaged" in caplog.text and not list(tmp_path.iterdir())


def test_leftovers_of_a_kill_between_two_files_are_removed(every, tmp_path):
    write(tmp_path, [[np.zeros(3)]], [np.ones(2)])
    (tmp_path / ".tmp-000001-step4-0123456789abcdef.npz").write_bytes(b"half")
    (tmp_path / "000000-step4-0123456789abcdef.npz").write_bytes(b"older than the finished unit")
    (tmp_path / "inputs.json").write_text("{}")  # the work folder's own
    log = every()
    assert [log.load()[0] for _ in range(2)] == ["done", "partial"] and log.load() is None
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_only_warns(every, tmp_path, caplog, monkeypatch):
    log = every()
    log.load()
    monkeypatch.setattr(files, "_warned", set())

    def replace(*names):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(resume.os, "replace", replace)
        log.done([np.zeros(3)])
        log.load()
        log.done([np.ones(3)])
    assert caplog.text.count("No space left") == 1 and not list(tmp_path.iterdir())
    log.load()
    log.done([np.ones(1)])  # there is room again
    log = every()
    assert_same([log.load()[1][0][:1] for _ in range(3)], [np.zeros(1), np.ones(1), np.ones(1)])


WORK = """
import sys, numpy as np
from tfadv.store.resume import ResumeLog
log = ResumeLog(sys.argv[1], interval=0.003)
total = np.zeros(20_000)
for unit in range(40):
    saved, step, state = log.load(), 0, np.zeros(20_000)
    if saved and saved[0] == "done":
        total += saved[1][0]
        continue
    if saved:
        step, state = saved[1], saved[2][0]
    while step < 10:
        state, step = state + np.sin(np.arange(20_000) * (unit + step)), step + 1
        log.partial(step, lambda: [state])
    log.done([state])
    total += state
    print(unit, flush=True)
print(repr(total.sum()))
"""


def test_killed_at_random_moments_it_ends_with_the_same_result(tmp_path):
    command = [sys.executable, "-c", WORK]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    expected = subprocess.run([*command, tmp_path / "whole"], capture_output=True, text=True, cwd=ROOT, check=True)
    moments, computed = random.Random(0), 0
    for _ in range(8):
        process = subprocess.Popen(
            [*command, tmp_path / "killed"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        process.stdout.readline()  # it has started
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        computed += len(process.communicate()[0].splitlines()) + 1
    done = subprocess.run([*command, tmp_path / "killed"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == expected.stdout.splitlines()[-1]
    assert len(done.stdout.splitlines()) < 40 and computed  # some units came from the log
