"""The fault suite: short as a part of all tests, and long: `python -m pytest tests/faults --long`."""

import collections
import shutil

import pytest

from tests.faults.harness import Run

TALLY = collections.Counter()


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the whole fault suite: about an hour on 2 cores")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with --long")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long", default=False):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="only with --long"))


def pytest_terminal_summary(terminalreporter):
    for what, number in sorted(TALLY.items()):
        terminalreporter.write_line(f"{what}: {number}")


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long", default=False)


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
