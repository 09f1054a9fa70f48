"""The report's pictures: accuracy over eps for each model, the transfer matrix, and a sheet of attacked images."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tfadv.evaluation.records import WORST_CASE
from tfadv.report.comparison import comparison_plot, comparison_table, strongest
from tfadv.report.data import ReportData
from tfadv.report.example_sheet import example_sheet
from tfadv.report.tables import matrix_table

DPI = 120
# Colors that color-blind readers tell apart (Okabe & Ito), and a marker each for black-and-white print.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
      file: name of the PNG file.
      title: short text for those who do not see it.
      caption: sentences that belong below it.
      draw: function that returns the Matplotlib figure.
    """

    file: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes every picture as a PNG file."""
    for picture in pictures(data):
        picture.draw().savefig(folder / picture.file, dpi=DPI)


def pictures(data: ReportData) -> list[Picture]:
    """The pictures of a report, not drawn yet."""
    listed = []
    if data.epsilons:
        for model in data.models:
            title, caption = f"Accuracy of {model} over eps", _accuracy_caption(data, model)
            listed.append(Picture(f"accuracy_{model}.png", title, caption, _drawing(accuracy_plot, data, model)))
    for model in data.models if comparison_table(data) else ():
        if any(record.model == model and record.settings for record in data.records):
            attack, _ = strongest(data, model)
            title = f"Defenses of {model}"
            caption = (
                f"Accuracy of {model} under {attack}, with 95% intervals, over accuracy on clean images. A line joins "
                "recipes that differ in their settings only."
            )
            drawing = _drawing(comparison_plot, data, model, styles(data))
            listed.append(Picture(f"defenses_{model}.png", title, caption, drawing))
    if data.transfer_matrix:
        caption = "Transfer matrix: dark where images attacked on the model of the row also fool the one of the column."
        listed.append(Picture("matrix.png", "Transfer matrix", caption, _drawing(matrix_plot, data)))
    if data.examples:
        title = f"{data.examples.model} under {data.examples.attack} at eps {data.examples.eps:g}"
        listed.append(Picture("examples.png", title, _examples_caption(data), _drawing(example_sheet, data)))
    return listed


def _drawing(function: Callable[..., Figure], *args: object) -> Callable[[], Figure]:
    return lambda: function(*args)


def _accuracy_caption(data: ReportData, model: str) -> str:
    lines = ["solid under white-box FGSM"]
    if any(record.model == model and record.protocol == "transfer" for record in data.records):
        lines.append("dotted on the surrogate's stored adversarial images")
    sizes = {f"{record.n:,}" for record in data.records if record.model == model and record.attack == WORST_CASE}
    if sizes:
        images = " / ".join(sorted(sizes))
        lines.append(f"dashed in the worst case per image over all attacks, on {images} test images")
    return f"Accuracy of {model} over eps: {', '.join(lines)}."


def _examples_caption(data: ReportData) -> str:
    examples, reference = data.examples, data.experiment.reference
    assert examples is not None
    return (
        f"{examples.model} under {examples.attack} at eps {examples.eps:g}. Of the first {examples.n_candidates:,} "
        f"test images, {examples.n_fooled:,} are classified correctly by the model {reference} and misclassified "
        f"under attack; the sheet shows such images first. The adversarial images are those for {reference}; each "
        "model's prediction on the right is for an attack on that model itself."
    )


def styles(data: ReportData) -> dict[str, tuple[str, str, str]]:
    """Recipe of the records → (title, color, marker); recipes without a style get the next unused ones."""
    recipes = {recipe.name: recipe for recipe in data.experiment.recipes}
    known = [recipes[name] for name in data.recipes if name in recipes]
    colors = [c for c in PALETTE if c not in {recipe.color for recipe in known}] or list(PALETTE)
    markers = [m for m in MARKERS if m not in {recipe.marker for recipe in known}] or list(MARKERS)
    chosen, used = {}, 0
    for name in data.recipes:
        recipe = recipes.get(name)
        color = (recipe.color if recipe else "") or colors[used % len(colors)]
        marker = (recipe.marker if recipe else "") or markers[used % len(markers)]
        used += not (recipe and recipe.color and recipe.marker)
        chosen[name] = (recipe.title if recipe else name, color, marker)
    return chosen


def accuracy_plot(data: ReportData, model: str) -> Figure:
    """Accuracy of a model over eps, clean at eps 0: a color per recipe, a line style per protocol."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    epsilons = [0.0, *data.epsilons]
    shown: dict[str, Any] = {}  # protocol → line style
    for recipe, (_, color, marker) in styles(data).items():
        clean = data.accuracy(model, recipe, "clean")
        curves = {
            "FGSM, white-box": ("-", [data.accuracy(model, recipe, "whitebox", eps) for eps in data.epsilons]),
            "FGSM, transfer": (":", [data.accuracy(model, recipe, "transfer", eps) for eps in data.epsilons]),
            "worst case of attacks": ("--", [_worst_case(data, model, recipe, eps) for eps in data.epsilons]),
        }
        for protocol, (line, values) in curves.items():
            if any(value is not None for value in values):
                # The attacks of the worst case may have run on fewer images than those of the clean accuracy.
                start = None if line == "--" else clean
                heights = np.array([start, *values], dtype=float)
                axes.plot(epsilons, heights, line, color=color, marker=marker, markersize=5, clip_on=False)
                shown[protocol] = line
    axes.set(title=model, xlabel="eps (pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, 100), xticks=epsilons)
    axes.set_xticks(epsilons, [f"{eps:g}" for eps in epsilons])
    axes.grid(alpha=0.3)
    recipes = [
        Line2D([], [], color=color, marker=marker, label=title)
        for name, (title, color, marker) in styles(data).items()
        if any(record.model == model and record.variant == name for record in data.records)
    ]
    protocols = [Line2D([], [], color="0.3", linestyle=line, label=protocol) for protocol, line in shown.items()]
    figure.legend(handles=recipes + protocols, loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _worst_case(data: ReportData, model: str, recipe: str, eps: float) -> float | None:
    for record in data.records:
        if (record.model, record.variant, record.attack, record.eps) == (model, recipe, WORST_CASE, eps):
            return 100 * record.accuracy
    return None


def matrix_plot(data: ReportData) -> Figure:
    """The transfer matrix as a heat map with its figures; dark where images transfer."""
    table = matrix_table(data)
    assert table is not None
    figures = np.array([row[1:] for row in table.rows], dtype=float)
    n_rows, n_columns = figures.shape
    figure = Figure(figsize=(3.5 + 0.7 * n_columns, 2.5 + 0.7 * n_rows), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(figures, cmap="cividis", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(figures):
        text = "–" if np.isnan(value) else f"{value:.0f}"
        axes.text(column, row, text, ha="center", va="center", color="black" if value > 50 else "white")
    axes.set_xticks(range(n_columns), table.head[1:], rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(n_rows), [str(row[0]) for row in table.rows], fontsize=8)
    axes.set(xlabel="evaluated model", ylabel="attacked model")
    figure.colorbar(image, label="accuracy, %", shrink=0.8)
    return figure
