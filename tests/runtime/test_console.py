"""What is shown on the terminal."""

import io
import logging

import pytest

from tfadv.runtime import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def logger(monkeypatch):
    """The logger of tfadv; logger and verbosity are restored after the test."""
    logger = logging.getLogger("tfadv")
    old = logger.handlers, logger.propagate, logger.level
    monkeypatch.setattr(console, "_quiet", False)
    yield logger
    logger.handlers, logger.propagate = old[:2]
    logger.setLevel(old[2])


@pytest.mark.parametrize(
    "stream, expected", [(Terminal, "\r\033[Kmodel …\r\033[K{} done\n"), (io.StringIO, "{} model …\n{} done\n")]
)
def test_a_line_about_what_was_started_stays_only_in_logs(monkeypatch, logger, stream, expected):
    stderr = stream()
    monkeypatch.setattr("sys.stderr", stderr)
    console.configure_logging("info")
    console.started("model")
    logger.info("done")
    times = [word for word in stderr.getvalue().replace("\033[K", " ").split() if word.count(":") == 2]
    assert stderr.getvalue() == expected.format(*times)


def test_quiet_says_nothing(monkeypatch, logger):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    console.configure_logging("quiet")
    console.started("model")
    assert stderr.getvalue() == ""


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
