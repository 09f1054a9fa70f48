"""What MkDocs adds to the documentation: pages generated from the code, records of runs, the script of tables."""

from __future__ import annotations

import functools
import inspect
import pathlib
from importlib import resources
from typing import Any

from mkdocs.structure.files import File, Files

from tfadv import specs
from tfadv.attacks import ATTACKS
from tfadv.command_line import CommandLine, flagfile_folder, shipped_flagfiles
from tfadv.config import Config
from tfadv.defenses import DEFENSES
from tfadv.evaluation.checks import RULES
from tfadv.registry import Registry
from tfadv.settings import explained

CHECKS = "<!-- checks -->"  # the place in gradient_masking.md
RESULTS = pathlib.Path(__file__).parents[1] / "results"


def on_files(files: Files, config) -> Files:
    """Adds the generated pages, results.json of each run, and the script that sorts tables."""
    script = resources.files("tfadv.report").joinpath("templates/table.js")
    records = sorted(RESULTS.glob("*/results.json"))
    for path, text in {
        "table.js": script.read_text(encoding="utf-8"),
        **{f"results/{record.parent.name}/results.json": record.read_text(encoding="utf-8") for record in records},
        "reference/flags.md": flags_page(),
        "reference/attacks.md": table_page("Attacks", "--attacks", ATTACKS),
        "reference/defenses.md": table_page("Defenses", "--defenses", DEFENSES),
    }.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Inserts the checks for gradient masking, and directs links to records to those that the site has."""
    return markdown.replace(CHECKS, "\n".join(map(check_text, RULES))).replace("](../results/", "](results/")


def flags_page() -> str:
    """All flags by group, and the flagfiles."""
    chosen = vars(CommandLine([]).config())
    lines = [
        "# Flags",
        "",
        "`tfadv --helpfull` prints this list, `--help` the usual ones. A later flag overrides an earlier one.",
    ]
    groups: list[str] = []
    for group, name, flag, text in explained(Config, chosen):
        if group not in groups:
            groups.append(group)
            lines += ["", f"## {group}"]
        lines += ["", f"`{flag}` {{ #{name} }}", f":   {_escaped(text)}"]
    lines += [
        "",
        "## Flagfiles",
        "",
        "`--flagfile=NAME` reads the flags of a file that comes with tfadv, or of your own.",
    ]
    for name in shipped_flagfiles():
        text = (flagfile_folder() / f"{name}.flags").read_text(encoding="utf-8")
        lines += ["", f"### {name}", "", "```", text.strip(), "```"]
    return "\n".join(lines)


def table_page(title: str, flag: str, table: Registry) -> str:
    """The entries of a table with their first sentences, and the documentation of each class or function."""
    rows, targets = [], []
    for name in table:
        entry, settings = table[name], {}
        if isinstance(entry, functools.partial):  # a class with other defaults
            entry, settings = entry.func, entry.keywords
        target = _path(entry)
        changed = f" With {specs.label('', settings)[1:-1]}." if settings else ""
        rows.append(f"| [`{name}`](#{target}) | {_escaped(_paragraphs(entry)[0] + changed)} |")
        targets += [target, *_bases_with_settings(entry)]
    lines = [f"# {title}", "", f"The names that `{flag}` and the Python functions accept.", "", "| name | what it is |"]
    lines += ["| --- | --- |", *rows]
    for target in dict.fromkeys(targets):
        lines += ["", f"::: {target}", "    options: {members: false}"]
    return "\n".join(lines)


def _path(entry: Any) -> str:
    return f"{entry.__module__}.{entry.__qualname__}"


def _bases_with_settings(entry: Any) -> list[str]:
    """The base classes whose docstrings explain settings."""
    bases = inspect.getmro(entry)[1:] if inspect.isclass(entry) else ()
    return [_path(base) for base in bases if "Attributes:" in (base.__dict__.get("__doc__") or "")]


def check_text(name: str) -> str:
    """A check for gradient masking: its name and the docstring of its rule."""
    first, *rest = _paragraphs(RULES[name])
    return "\n\n".join(["", f"**{name}.** {first}", *rest])


def _paragraphs(entry: Any) -> list[str]:
    """The docstring's paragraphs, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(entry) or "").split("\n\n")]


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")
