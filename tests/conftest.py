"""Shared fixtures: the embedded digits, a linear classifier, and the real images where they lie beside the project."""

import contextlib
import gc
import logging
import os
import pathlib
import shutil

import tfadv  # noqa: F401  before TensorFlow, because it switches oneDNN on

import filelock
import hypothesis
import keras
import numpy as np
import pytest

from tests.network import NotPermitted, linked_namespaces
from tests.smoke import Smoke
from tfadv.datasets import sources
from tfadv.runtime import console

# Each traced function adds many objects that live, which Python would visit again and again.
gc.set_threshold(50_000, 20, 10)
# A busy machine is no fault of the code.
hypothesis.settings.register_profile(
    "any_speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_speed")
REAL = pathlib.Path(__file__).parents[2] / "shared" / "tfds"


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the whole fault suite: about an hour on 2 cores")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with --long")
    config.addinivalue_line("markers", "packaging: wheel, site, notebook and browser; only with -m packaging")


def pytest_collection_modifyitems(config, items):
    # Files with few, long tests first: at the end, one process would run them while the other one has nothing to do.
    # The first file of all needs no smoke run, which the other process makes meanwhile.
    items.sort(key=lambda i: (i.path.stem != "test_own_model", i.path.parent.name not in ("pipeline", "faults")))
    wanted = {"long": config.getoption("--long", default=False), "packaging": "packaging" in config.option.markexpr}
    how = {"long": "only with --long", "packaging": "only with -m packaging"}
    for item in items:
        for name in wanted:
            if item.get_closest_marker(name) and not wanted[name]:
                item.add_marker(pytest.mark.skip(reason=how[name]))


@pytest.fixture(autouse=True)
def restore_logging():
    """Undoes `console.configure_logging`, with which a command in this process changes the logger of tfadv."""
    logger = logging.getLogger("tfadv")
    handlers, propagate, level, quiet = list(logger.handlers), logger.propagate, logger.level, console._quiet
    yield
    logger.handlers, logger.propagate, console._quiet = handlers, propagate, quiet
    logger.setLevel(level)


@pytest.fixture(scope="session")
def long(request):
    """bool, whether all of a long test is wanted."""
    return request.config.getoption("--long", default=False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that returns a copy of a folder which only one of the processes of pytest makes.

    Args:
      name: of the folder.
      make: a function that fills it, given its path.

    Returns:
      The path of the folder that `make` was given, and that of this process' own copy of it.
    """
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent

    def made_once(name, make):
        made, done = root / f"made-{name}", root / f"made-{name}.done"
        with filelock.FileLock(root / f"made-{name}.lock"):
            if not done.exists():
                shutil.rmtree(made, ignore_errors=True)  # of a process in which it failed
                make(made)
                done.touch()
        return made, shutil.copytree(made, tmp_path_factory.mktemp(name) / "run")

    return made_once


@pytest.fixture(scope="session")
def digits(data_dir):
    return sources.load("digits", data_dir, 32)


@pytest.fixture(scope="session")
def smoke(made_once, data_dir):
    """A `Smoke` that has run once; its `stdout` is what it printed.  Tests that change its folder work on a copy."""

    def make(folder):
        stdout = Smoke(folder / "run", data_dir).succeed()
        (folder / "stdout.txt").write_text(stdout)

    made, copy = made_once("smoke", make)
    run = Smoke(copy / "run", data_dir)
    run.stdout = (copy / "stdout.txt").read_text().replace(str(made), str(copy))
    return run


@pytest.fixture(scope="session")
def real_data():
    if not REAL.is_dir():
        pytest.skip(f"needs real TFDS images in {REAL}")
    return str(REAL)


@pytest.fixture
def namespaces():
    """Two network namespaces with a link between them, see `tests.network`."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(linked_namespaces())
        except NotPermitted as error:
            pytest.skip(f"needs network namespaces: {error}")
        yield names


@pytest.fixture
def linear():
    """(model, W (12, 3), b (3,)): softmax regression on images (2, 2, 3)."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(12, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([w, b])
    return model, w, b
