"""Malformed flags and flagfiles: a clear refusal and never a traceback."""

import hypothesis
import pytest
from hypothesis import strategies as st

from tfadv.command_line import CommandLine
from tfadv.config import Config
from tfadv.errors import UserError
from tfadv.main import main
from tfadv.runtime import signals
from tfadv.settings import settings_of

FLAGS = sorted([name for name, _, _ in settings_of(Config) if name != "plugins"] + ["help", "helpfull", "version"])
AWKWARD = [
    "",
    "0",
    "-1",
    "1e999",
    "nan",
    "-inf",
    "0x10",
    "true",
    ",",
    ",,",
    "1/0",
    "0/0",
    "9/3",
    "0.03,0.03",
    "\0",
    "~",
    "é",
    "pgd(",
    "pgd(steps=5)",
    "pgd(steps=5,steps=6)",
    "nfgsm(epochs=8, optimizer=sgd)",
    "cpu:2",
    "fgsm,",
    '"',
]
VALUES = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(max_size=30),
    st.text("pgdfsm(),=/0123456789.e-", max_size=20),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
    st.lists(st.floats(0, 2).map(str), max_size=4).map(",".join),
)


def answer(arguments):
    """What the command line answers: "accepted" or "refused"; anything else is a traceback."""
    try:
        command_line = CommandLine(arguments)
        config = command_line.config()
    except UserError as error:
        assert str(error).strip()
        return "refused"
    assert isinstance(config, Config)
    return "accepted"


@hypothesis.settings(max_examples=500)
@hypothesis.given(pairs=st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), min_size=1, max_size=4))
def test_flags(pairs, tally):
    tally[f"flags {answer([f'--{name}={value}' for name, value in pairs])}, no traceback"] += 1


@hypothesis.settings(max_examples=500, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(st.tuples(st.sampled_from([*FLAGS, "flagfile", "no", ""]), VALUES), max_size=4).map(
            lambda pairs: "\n".join(f"--{name}={value}" for name, value in pairs).encode(errors="surrogatepass")
        ),
    )
)
def test_flagfiles(content, tmp_path, tally, capsys):
    path = tmp_path / "some.flags"
    path.write_bytes(content)
    tally[f"flagfiles {answer([f'--flagfile={path}'])}, no traceback"] += 1


@hypothesis.settings(max_examples=200)
@hypothesis.given(name=VALUES)
@hypothesis.example(name="~0")  # the home of no user
def test_names_of_flagfiles(name, tally):
    for arguments in ([f"--flagfile={name}"], ["--flagfile", name], ["--flagfile"]):
        tally[f"names of flagfiles {answer(arguments)}, no traceback"] += 1


@pytest.mark.parametrize("content", [b"\xff\xfe--epochs=3", b"--flagfile=none.flags", b"--epochs=many"])
def test_an_invalid_flagfile_ends_in_one_line(content, tmp_path, capsys):
    path = tmp_path / "bad.flags"
    path.write_bytes(content)
    try:
        assert main([f"--flagfile={path}"]) == 1
    finally:
        signals.uninstall()
    errors = capsys.readouterr().err
    assert errors.startswith("tfadv: ") and len(errors.splitlines()) == 1
