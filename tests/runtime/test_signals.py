"""Ctrl-C and SIGTERM: at once, after a step, and where the main thread does not come back from a call of TensorFlow."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tfadv.runtime import signals

ROOT = pathlib.Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture
def installed():
    saved = {number: signal.getsignal(number) for number in signals.SIGNALS}
    signals.install()
    yield
    signals.uninstall()
    assert {number: signal.getsignal(number) for number in signals.SIGNALS} == saved


def send(number):
    os.kill(os.getpid(), number)


@BOTH
def test_at_once_where_there_are_no_steps(number, code, installed):
    with pytest.raises(signals.Stopped) as stopped:
        send(number)
    assert stopped.value.exit_code == code
    assert not isinstance(stopped.value, Exception)  # "except Exception" on the way must not swallow it


def test_after_the_step_where_there_are_and_at_once_the_second_time(installed):
    done = []
    with pytest.raises(signals.Stopped), signals.in_steps():
        send(signal.SIGTERM)
        done.append("step")
        assert signals.asked()
        signals.stop()
        done.append("next step")
    assert done == ["step"]
    with pytest.raises(signals.Stopped), signals.in_steps():
        send(signal.SIGINT)
        done.append("next step")
    assert done == ["step"]


def test_a_second_signal_within_the_step_stops_at_once(installed):
    with pytest.raises(signals.Stopped) as stopped, signals.in_steps():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        raise AssertionError("not reached")
    assert stopped.value.exit_code == 130


def test_a_signal_of_the_last_step_stops_after_the_block(installed):
    with signals.in_steps():
        send(signal.SIGTERM)
    with pytest.raises(signals.Stopped):
        signals.stop()
    signals.stop()  # once


def test_nothing_happens_unasked(installed):
    with signals.in_steps():
        assert not signals.asked()
        signals.stop()


def test_without_installation_signals_are_pythons_own():
    with pytest.raises(KeyboardInterrupt), signals.in_steps():
        assert not signals.asked()
        send(signal.SIGINT)
    signals.stop()


def test_installed_again_it_takes_the_handlers_back(installed):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as TensorFlow does where there are several hosts
    signals.install()
    with pytest.raises(signals.Stopped):
        send(signal.SIGTERM)


def test_a_handled_signal_does_not_end_the_process_later(installed, monkeypatch):
    monkeypatch.setattr(signals, "SECONDS", 0.1)
    monkeypatch.setattr(signals, "_end", lambda number: pytest.fail("ended"))
    with pytest.raises(signals.Stopped):
        send(signal.SIGINT)
    time.sleep(0.4)


# ---- in a process of its own ----------------------------------------------------------------------------

# name → (code that runs before "ready", code in which the signal arrives)
CALLS = {
    "a long tf.function": (
        """
import tfadv, tensorflow as tf
@tf.function
def long(n):
    x = tf.random.uniform((300, 300))
    return tf.while_loop(lambda i, x: i < n, lambda i, x: (i + 1, tf.linalg.matmul(x, x) / 150.0), (0, x))
long(tf.constant(1))
""",
        "long(tf.constant(10**7))",
    ),
    "a call of C that releases the lock": (
        "import hashlib",
        "hashlib.pbkdf2_hmac('sha512', b'a', b'b', 10**9)",
    ),
    "tracing and compiling": (
        """
import tfadv, tensorflow as tf
x = tf.ones(4)
@tf.function
def deep(x):
    for i in range(10**6):
        x = tf.sin(x) + i
    return x
""",
        "deep(x)",
    ),
    "Python": ("import time", "while True: time.sleep(0.01)"),
}
PROGRAM = """
import sys
from tfadv.runtime import signals
{before}
signals.install()
print("ready", flush=True)
try:
    {call}
except signals.Stopped as stopped:
    print("tfadv: " + signals.CLOSING_LINE, file=sys.stderr)
    sys.exit(stopped.exit_code)
"""


def started(before, call):
    code = PROGRAM.format(before=before, call=call)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    time.sleep(0.3)  # it is in the call
    return process


def ended(process):
    """(seconds until the closing line, exit code, standard error); TensorFlow's own shutdown may take longer."""
    begun, lines, seconds = time.monotonic(), [], None
    for line in process.stderr:
        lines.append(line)
        if signals.CLOSING_LINE in line:
            seconds = time.monotonic() - begun
    process.communicate(timeout=60)
    assert seconds is not None, "".join(lines)
    return seconds, process.returncode, "".join(lines)


@pytest.mark.parametrize(
    "call, number, code",
    [
        pytest.param("a long tf.function", signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param("tracing and compiling", signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param("a call of C that releases the lock", signal.SIGTERM, 143, marks=pytest.mark.long),
        ("a call of C that releases the lock", signal.SIGINT, 130),
        pytest.param("Python", signal.SIGTERM, 143, marks=pytest.mark.long),
        ("Python", signal.SIGINT, 130),
    ],
)
def test_ends_within_two_seconds(call, number, code):
    process = started(*CALLS[call])
    process.send_signal(number)
    seconds, returned, errors = ended(process)
    assert returned == code, errors
    assert seconds < 2.5, call  # 1.5 s, and some more on busy cores
    assert errors.splitlines()[-1] == "tfadv: " + signals.CLOSING_LINE and "Traceback" not in errors


@pytest.mark.parametrize("steps", ["", "with signals.in_steps(): "])
def test_a_second_signal_ends_a_long_call_at_once(steps):
    before, call = CALLS["a call of C that releases the lock"]
    process = started(before, steps + call)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    seconds, returned, errors = ended(process)
    assert returned == 130 and seconds < 1, errors
    assert errors.splitlines() == ["tfadv: " + signals.CLOSING_LINE]


STEPS = """
import hashlib, time
def train(seconds):
    with signals.in_steps():
        while True:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                hashlib.pbkdf2_hmac('sha512', b'a', b'b', 100_000)
            if signals.asked():
                time.sleep(0.5)  # writes a checkpoint
                print("saved", flush=True)
                signals.stop()
"""


@pytest.mark.parametrize("seconds, least, most", [(0.2, 0.5, 1.5), (2.5, 2.0, 4.0)])
def test_a_step_and_its_checkpoint_are_finished(seconds, least, most):
    process = started(STEPS, f"train({seconds})")
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and output == "saved\n", errors
    assert least <= time.monotonic() - begun < most


@pytest.mark.parametrize(
    "call",
    [
        "with signals.in_steps(): hashlib.pbkdf2_hmac('sha512', b'a', b'b', 10**9)",  # in one call
        "with signals.in_steps(): [hashlib.pbkdf2_hmac('sha512', b'a', b'b', 10**5) for _ in range(10**5)]",
    ],
)
def test_a_step_that_does_not_end_is_not_waited_for(call):
    process = started("import hashlib; signals.SECONDS_IN_STEPS = 1.0", call)
    process.send_signal(signal.SIGINT)
    seconds, returned, errors = ended(process)
    assert returned == 130 and 0.9 < seconds < 2.0, errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_count_twice():
    code = """
import os, time
def train():
    if not os.fork():
        time.sleep(0.8)
        os._exit(0)
    with signals.in_steps():
        time.sleep(0.8)
        if signals.asked():
            print("saved", flush=True)
        signals.stop()
"""
    process = started(code + "os.setpgid(0, 0)", "train()")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and output == "saved\n", errors
