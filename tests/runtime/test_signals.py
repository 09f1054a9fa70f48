import os
import signal

import pytest

from tfadv.runtime import signals


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    saved = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(stopping, "_asked", None)
    signals.install()
    yield
    for number, handler in saved.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_at_once_where_there_are_no_steps(number, code):
    with pytest.raises(signals.Stopped) as stopped:
        send(number)
    assert stopped.value.exit_code == code
    assert not isinstance(stopped.value, Exception)  # "except Exception" on the way must not swallow it


def test_after_the_step_where_there_are_and_at_once_the_second_time():
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


def test_nothing_happens_unasked():
    with signals.in_steps():
        assert not signals.asked()
        signals.stop()
