"""Runs of the pipeline in the process of the tests."""

import pytest

from tfadv.command_line import CommandLine
from tfadv.pipeline.run import Run
from tfadv.store.workdir import Workdir

CHEAP = "--plugins=tests.pipeline.cheap_checks"


@pytest.fixture
def started():
    """A function from flags to a `Run` in this process; it opens the work folder that they name."""
    opened = []

    def close():
        while opened:
            opened.pop().__exit__(None, None, None)

    def start(*flags):
        close()
        config = CommandLine(flags).config()
        opened.append(Workdir(config.workdir, shard=config.shard_of()))
        return Run(config, opened[-1].__enter__())

    yield start
    close()
