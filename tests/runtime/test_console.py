"""What is shown on the terminal."""

import io
import logging

import pytest

from tfadv.runtime import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, expected", [(Terminal, "\r\033[Kmodel …\r\033[K{} done\n"), (io.StringIO, "{} model …\n{} done\n")]
)
def test_a_line_about_what_was_started_stays_only_in_logs(monkeypatch, stream, expected):
    stderr = stream()
    monkeypatch.setattr("sys.stderr", stderr)
    console.configure_logging("info")
    console.started("model")
    logging.getLogger("tfadv").info("done")
    times = [word for word in stderr.getvalue().replace("\033[K", " ").split() if word.count(":") == 2]
    assert stderr.getvalue() == expected.format(*times)


def test_quiet_says_nothing(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    console.configure_logging("quiet")
    console.started("model")
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(
    "gpus, driver, visible, warned", [(0, True, "0", 1), (1, True, "0", 0), (0, False, "0", 0), (0, True, "", 0)]
)
def test_a_gpu_that_tensorflow_does_not_find_is_a_warning(gpus, driver, visible, warned, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(console, "_NVIDIA_DRIVER", str(tmp_path if driver else tmp_path / "absent"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    console.warn_of_unused_gpu(gpus)
    assert len(caplog.records) == warned


def test_styles_are_for_terminals_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert console.styled("done", "green") == "\033[32mdone\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.styled("done", "green") == "done"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert console.styled("done", "green") == "done"


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (59.6, "60 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (6000, "1 h 40 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text
