"""Malformed flags and flagfiles: a clear refusal and never a traceback."""

import contextlib

import hypothesis
import pytest
from absl import flags
from hypothesis import strategies as st

from tests.faults.harness import ROOT
from tfadv import main
from tfadv.config import Config, Run
from tfadv.errors import UserError

OURS = sorted(flag.name for flag in flags.FLAGS.get_flags_for_module(main))
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
]
VALUES = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(max_size=30),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
    st.lists(st.floats(0, 2).map(str), max_size=4).map(",".join),
)


@contextlib.contextmanager
def restored():
    values = flags.FLAGS
    saved = {name: (values[name].value, values[name].present) for name in values}
    try:
        yield values
    finally:
        for name, (value, present) in saved.items():
            values[name].value, values[name].present = value, present
        values.unparse_flags()


def answer(argv):
    """What the command line says to these arguments: "taken" or "refused"; anything else is a traceback."""
    with restored() as values:
        try:
            values(["tfadv", *argv])
            assert isinstance(main._config(), Config) and isinstance(main._run(), Run)
        except (flags.Error, UserError) as error:
            assert str(error).strip()
            return "refused"
        return "taken"


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(pairs=st.lists(st.tuples(st.sampled_from(OURS), VALUES), min_size=1, max_size=4))
def test_flags(pairs, tally):
    tally[f"flags {answer([f'--{name}={value}' for name, value in pairs])}, no traceback"] += 1


@hypothesis.settings(
    max_examples=500, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(st.tuples(st.sampled_from([*OURS, "flagfile", "no", ""]), VALUES), max_size=4).map(
            lambda pairs: "\n".join(f"--{name}={value}" for name, value in pairs).encode(errors="surrogatepass")
        ),
    )
)
def test_flagfiles(content, tmp_path, tally, capsys):
    path = tmp_path / "some.flags"
    path.write_bytes(content)
    with restored():
        try:
            main._parse(["tfadv", f"--flagfile={path}"])
            main._config(), main._run()
            said = "taken"
        except (SystemExit, UserError):
            said = "refused"
    tally[f"flagfiles {said}, no traceback"] += 1


@pytest.mark.parametrize("content", [b"\xff\xfe--epochs=3", b"--flagfile=none.flags", b"--epochs=many"])
def test_a_flagfile_that_is_none_ends_in_a_line(content, tmp_path):
    import subprocess
    import sys

    path = tmp_path / "bad.flags"
    path.write_bytes(content)
    command = [sys.executable, "-m", "tfadv.main", f"--flagfile={path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.strip()
