"""The fault suite: a short one among all tests, the full one by `python -m pytest tests/faults --long -n 0`."""

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
def complete(smoke):
    """A `Run` that has built everything without interruption."""
    return Run(smoke.workdir, smoke.data_dir)


@pytest.fixture
def copy(complete, tmp_path):
    """A `Run` on a copy of the complete one's folder."""
    shutil.copytree(complete.workdir, tmp_path / "run")
    return Run(tmp_path / "run", complete.data_dir)
