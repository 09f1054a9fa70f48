"""The fault suite: short as a part of all tests, and long: `python -m pytest tests/faults --long -n 0`."""

import collections
import shutil

import pytest

from tests.faults.harness import Run

TALLY = collections.Counter()


def pytest_terminal_summary(terminalreporter):
    for what, number in sorted(TALLY.items()):
        terminalreporter.write_line(f"{what}: {number}")


@pytest.fixture(scope="session")
def tally():
    """Counter of what was tried; printed at the end."""
    return TALLY


@pytest.fixture(scope="session")
def whole(tmp_path_factory, data_dir):
    """A `Run` that has done everything, unbroken."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", data_dir)
    done = run()
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def copy(whole, tmp_path):
    """A `Run` on a copy of the unbroken one's folder."""
    shutil.copytree(whole.workdir, tmp_path / "run")
    return Run(tmp_path / "run", whole.data_dir)
