"""The report in a few lines of plain text, summary.txt: what the command line prints."""

from __future__ import annotations

import pathlib

from tfadv.report.data import ReportData
from tfadv.report.page import overview, sentence
from tfadv.report.tables import is_figure, report_headline


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes summary.txt: the accuracies that matter, then what they mean."""
    table = overview(data)
    texts = table.texts()
    columns = []
    for head, *cells in zip(table.head, *texts, strict=True):
        width = max(map(len, (head, *cells)))
        right = any(map(is_figure, cells))
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in (head, *cells)])
    lines = [f"{data.dataset}: {table.title}", "", *("  ".join(row).rstrip() for row in zip(*columns, strict=True)), ""]
    lines += [sentence(data), report_headline(data)]
    suspicious = [model for model, checks in data.checks.items() if any(check.passed is False for check in checks)]
    if suspicious:
        lines.append(f"Gradient masking is suspected: {', '.join(suspicious)}.")
    (folder / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
