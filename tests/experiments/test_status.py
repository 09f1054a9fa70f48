"""`--stage=status`, and what is shown on the terminal."""

import io
import json
import logging
import shutil

import pytest

from tfadv.runtime import console
from tfadv.store.workdir import Workdir


def states(stdout):
    """Artifact → state."""
    lines = [line.split() for line in stdout.partition("\n\n")[0].splitlines()]
    return {line[1]: line[0] for line in lines}


def test_everything_is_done_after_a_run(smoke):
    stdout = smoke.succeed("--stage=status")
    assert set(states(stdout)) == set(smoke.dates()) and set(states(stdout).values()) == {"done"}
    assert "12 done in" in stdout and "missing" not in stdout
    size = sum(path.stat().st_size for path in smoke.workdir.rglob("*") if path.is_file())
    assert f"{size / 1e6:.1f} MB on disk" in stdout


def test_status_names_what_is_stale_missing_unfinished_or_damaged(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    shutil.rmtree(run.workdir / "gallery/resnet_tiny/baseline")
    part = run.workdir / "parts/evaluations/resnet_tiny/retrained"
    shutil.rmtree(run.workdir / "evaluations/resnet_tiny/retrained")
    part.mkdir(parents=True)
    manifest = run.workdir / "evaluations/resnet_tiny/augmented/manifest.json"
    manifest.write_text(manifest.read_text().replace("fgsm", "pgd"))
    before = run.dates()
    stdout = run.succeed("--stage=status", "--retrain_epochs=2")
    found = states(stdout)
    assert found["split"] == found["models/resnet_tiny/baseline"] == "done"
    assert found["models/resnet_tiny/augmented"] == found["models/resnet_tiny/retrained"] == "stale"
    assert found["gallery/resnet_tiny/baseline"] == "missing"
    assert found["evaluations/resnet_tiny/retrained"] == "unfinished"
    assert found["evaluations/resnet_tiny/augmented"] == "damaged"
    assert "run the same command with --stage=report" in stdout
    assert run.dates() == before  # it builds and changes nothing
    assert json.loads((run.workdir / "config.json").read_text())["retrain_epochs"] == 1
    # With other images, nothing is up to date.
    found = states(run.succeed("--stage=status", "--train_size=200"))
    assert "done" not in found.values() and found["split"] == "stale"


def test_status_of_attacks_counts_those_of_other_commands(smoke, tmp_path):
    run = smoke.copy(tmp_path / "run")
    shutil.copytree(run.workdir / "split", run.workdir / "attacks/resnet_tiny/baseline/pgd")
    stdout = run.succeed("--stage=status", "--attacks=fgsm", "--eval_size=8")
    assert states(stdout)["attacks/resnet_tiny/baseline/fgsm"] == "missing" and "1 more artifact" in stdout


def test_status_works_while_another_process_uses_the_folder(smoke, tmp_path):
    folder = tmp_path / "new"
    run = type(smoke)(folder, smoke.data_dir)
    found = states(run.succeed("--stage=status"))
    assert set(found.values()) == {"missing"} and not folder.exists()
    with Workdir(folder, {"seed": 0}):
        assert states(run.succeed("--stage=status")) == found


# ---- the terminal ---------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def logger(monkeypatch):
    """Restores the logger of tfadv after the test."""
    logger = logging.getLogger("tfadv")
    old = logger.handlers, logger.propagate, logger.level
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
    monkeypatch.setattr(console, "_quiet", True)
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
