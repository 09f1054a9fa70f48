"""Commands in the documentation are accepted as written."""

import pathlib
import re
import shlex

import pytest

from tfadv.command_line import CommandLine

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "BUILD_NOTES.md", *sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/*.md"))]


def commands(page):
    """Arguments of the tfadv commands in indented code of a page, but for those that need files of the reader."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    .*?\b(?:tfadv|python -m tfadv\.main) (--.*)$", text, re.MULTILINE):
        arguments = shlex.split(line, comments=True)
        if not any(word.startswith(("--plugins=", "--models=mine", "--flagfile=runs/")) for word in arguments):
            yield arguments


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_are_accepted(page):
    for arguments in commands(page):
        line = CommandLine(arguments)
        assert line.help or line.config(), arguments


def test_the_pages_have_commands():
    assert sum(len(list(commands(page))) for page in PAGES) >= 12
