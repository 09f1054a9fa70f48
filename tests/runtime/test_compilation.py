"""How models are compiled: by arguments, and by the environment variables of the process."""

import importlib

import pytest

from tfadv.runtime import compilation


@pytest.fixture
def reloaded(monkeypatch):
    """A function that imports the module anew, with these environment variables."""

    def reload(**environment):
        for name in ("TFADV_XLA", "TFADV_ACCELERATE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        importlib.reload(compilation)
        return compilation.use_xla(), compilation.use_accelerated()

    yield reload
    monkeypatch.undo()
    importlib.reload(compilation)


def test_the_environment_chooses_for_the_whole_process(reloaded):
    """In 0.1, the choice did not reach the attacks."""
    from tfadv.training.steps import use_xla  # imported before, as by every user of the choice
    from tfadv.training.trainer import use_accelerated

    assert reloaded(TFADV_XLA="true", TFADV_ACCELERATE="off") == (True, False) == (use_xla(), use_accelerated())
    assert reloaded(TFADV_XLA="false") == (False, True) == (use_xla(), use_accelerated())
    assert reloaded()[1]


def test_arguments_choose_again(reloaded):
    reloaded(TFADV_XLA="true", TFADV_ACCELERATE="off")
    compilation.configure(jit_compile="false", accelerate="auto")
    assert (compilation.use_xla(), compilation.use_accelerated()) == (False, True)
