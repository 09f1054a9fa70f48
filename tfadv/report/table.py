"""`Table`: a title, column heads and rows, as Markdown, plain text and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import re

Cell = str | float | None
_FIGURE = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)(?: \[.*\]| ± .*)?$")  # "12.34", "12.3 [10.0, 15.0]", "12.3 ± 2.1"


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, column heads and rows.

    Attributes:
      title: what the table shows, with units.
      head: one heading per column.  Columns that end in "Δ" are printed with a sign.
      rows: cells are text, percentages as float, or None where there is no figure.
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Cell, ...]]

    def markdown(self) -> str:
        """The table in Markdown, with columns aligned for a terminal too."""
        texts = [[text.replace("|", "\\|") for text in row] for row in self.texts()]
        columns = [_aligned([short(head), *(row[i] for row in texts)]) for i, head in enumerate(self.head)]
        lines = ["| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def text(self) -> str:
        """The table as plain text with aligned columns, without its title."""
        texts = self.texts()
        columns = [_aligned([short(head), *(row[i] for row in texts)]) for i, head in enumerate(self.head)]
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        return "\n".join([lines[0], *lines[2:]])  # without the Markdown rule

    def texts(self) -> list[tuple[str, ...]]:
        """The rows as texts for people, see `short`."""
        return [tuple(short(_text(cell, head)) for cell, head in zip(row, self.head, strict=True)) for row in self.rows]

    def csv(self) -> str:
        """The table as CSV, at full precision and empty where there is no figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return text.getvalue()


def _text(cell: Cell, head: str) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    return f"{cell:+.2f}" if head.endswith("Δ") else f"{cell:.2f}"


def _aligned(cells: list[str]) -> list[str]:
    """The heading and the cells of a column, padded, with a Markdown rule between; figures are aligned right."""
    width = max(3, *map(len, cells))
    if not any(map(is_figure, cells[1:])):
        head, *rest = (cell.ljust(width) for cell in cells)
        return [head, ":" + "-" * (width - 1), *rest]
    head, *rest = (cell.rjust(width) for cell in cells)
    return [head, "-" * (width - 1) + ":", *rest]


def short(text: str) -> str:
    """A text for people, with no number of more than six significant digits, and 4/255 in place of 0.0156863.

    Labels have the settings in full, because they are read back: "nfgsm(eps=0.03137254901960784)".
    """
    return type(text)(re.sub(r"\d+\.\d{5,}", _shorter, text))  # what is safe in HTML stays so


def _shorter(number: re.Match[str]) -> str:
    text = f"{float(number[0]):g}"
    levels = round(255 * float(text))
    return f"{levels}/255" if levels and len(text) > 7 and text == f"{levels / 255:g}" else text


def is_figure(text: str) -> bool:
    """Whether the text of a cell is a number, which is aligned right."""
    return bool(_FIGURE.match(text))


def figure(text: str) -> float | None:
    """The number in the text of a cell, without its interval; None where it is no number."""
    found = _FIGURE.match(text)
    return float(found[1].replace(",", "")) if found else None
