"""The report's pictures: accuracy over eps for each model, the transfer matrix, and a sheet of attacked images."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.report.certified import CERTIFIED, certified_plot
from tfadv.report.comparison import add_legend_below, comparison_plot, strongest
from tfadv.report.data import ReportData
from tfadv.report.example_sheet import example_sheet
from tfadv.report.explanations import EXPLANATIONS, VULNERABILITY, explanation_sheet, vulnerability_plot
from tfadv.report.price import PRICE, price_plot, priced
from tfadv.report.table import short
from tfadv.report.tables import matrix_table

DPI = 120
# Colors that color-blind readers tell apart (Okabe & Ito), and a marker each for black-and-white print.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CURVES: tuple[Any, ...] = ("-.", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))  # line styles of attacks with distances

TRAINING_CAPTION = (
    "Accuracy on validation images (solid) and, for defenses that attack images while they train, under PGD or, for "
    "gaussian, with noise (dashed), and the training loss. A ring marks the epoch whose weights are kept."
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
      topic: what it is about: "accuracy", "defenses", "price", "transfer", "examples", "training", "certified",
        "vulnerability" or "explanations".
      file: name of the PNG file.
      title: short text for those who do not see it.
      caption: sentences that belong below it.
      draw: function that returns the Matplotlib figure.
    """

    topic: str
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
            listed.append(
                Picture("accuracy", f"accuracy_{model}.png", title, caption, _drawing(accuracy_plot, data, model))
            )
    for model in data.models:
        attack, robust = strongest(data, model)
        if len(robust) > 1:
            title = f"Defenses of {model}"
            caption = (
                f"Accuracy of {model} under {attack}, with 95% intervals, over accuracy on clean images. A line joins "
                "defenses that differ in their settings only."
            )
            drawing = _drawing(comparison_plot, data, model, styles(data))
            listed.append(Picture("defenses", f"defenses_{model}.png", title, caption, drawing))
    for model in data.models:
        if priced(data, model):
            title, drawing = f"Attacks on {model}", _drawing(price_plot, data, model, styles(data))
            listed.append(Picture("price", f"price_{model}.png", title, PRICE, drawing))
    if data.transfer_matrix:
        caption = "Transfer matrix: dark where images attacked on the model of the row also fool the one of the column."
        listed.append(Picture("transfer", "matrix.png", "Transfer matrix", caption, _drawing(matrix_plot, data)))
    for model in data.models:
        if any(training.history for name, training in data.training.items() if name.split("/")[0] == model):
            title = f"Training of {model}"
            drawing = _drawing(training_plot, data, model)
            listed.append(Picture("training", f"training_{model}.png", title, TRAINING_CAPTION, drawing))
    for model in dict.fromkeys(name.split("/", 1)[0] for name in data.certificates):
        title, drawing = f"Certified accuracy of {model}", _drawing(certified_plot, data, model, styles(data))
        listed.append(Picture("certified", f"certified_{model}.png", title, CERTIFIED, drawing))
    listed += _explanation_pictures(data)
    if data.gallery:
        title = short(f"{data.models[0]} under {data.gallery.attack} at eps {max(data.epsilons):g}")
        listed.append(
            Picture("examples", "examples.png", title, _examples_caption(data), _drawing(example_sheet, data))
        )
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
        lines.append(f"dashed in the worst case per image over several attacks, on {images} test images")
    attacks = ", ".join(data.with_distances(model))
    if attacks:
        lines.append(f"without markers the share of images whose nearest adversarial image by {attacks} is further")
    return f"Accuracy of {model} over eps: {', '.join(lines)}."


def _explanation_pictures(data: ReportData) -> list[Picture]:
    listed = []
    for model in dict.fromkeys(name.split("/", 1)[0] for name in data.explanations):
        drawing = _drawing(vulnerability_plot, data, model, styles(data))
        listed.append(
            Picture("vulnerability", f"vulnerability_{model}.png", f"Vulnerability of {model}", VULNERABILITY, drawing)
        )
        titles = {defense: title for defense, (title, _, _) in styles(data).items()}
        drawing = _drawing(explanation_sheet, data, model, titles)
        listed.append(
            Picture("explanations", f"explanations_{model}.png", f"What {model} looks at", EXPLANATIONS, drawing)
        )
    return listed


def _examples_caption(data: ReportData) -> str:
    assert data.gallery is not None
    return (
        f"Test images of {data.models[0]} under {data.gallery.attack} at eps {max(data.epsilons):g}; those on which "
        f"the attack succeeds come first. The adversarial images are those for {data.first}; each "
        "model's prediction on the right is for an attack on that model itself."
    )


def styles(data: ReportData) -> dict[str, tuple[str, str, str]]:
    """Defense of the records → (title, color, marker); defenses without a style get the next unused ones."""
    defenses = {defense.label: defense for defense in data.known_defenses}
    known = [defenses[name] for name in data.defenses if name in defenses]
    colors = [c for c in PALETTE if c not in {defense.color for defense in known}] or list(PALETTE)
    markers = [m for m in MARKERS if m not in {defense.marker for defense in known}] or list(MARKERS)
    chosen, used = {}, 0
    for name in data.defenses:
        defense = defenses.get(name)
        color = (defense.color if defense else "") or colors[used % len(colors)]
        marker = (defense.marker if defense else "") or markers[(used + used // len(colors)) % len(markers)]
        used += not (defense and defense.color and defense.marker)
        chosen[name] = (short(defense.title if defense else name), color, marker)
    return chosen


def accuracy_plot(data: ReportData, model: str) -> Figure:
    """Accuracy of a model over eps, clean at eps 0, with bands of 95% confidence.

    Defenses have a color each, protocols a line style.  Where the distances of the images are known, the accuracy is
    known at all eps: a line without markers.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    epsilons = [0.0, *data.epsilons]
    shown: dict[str, Any] = {}  # protocol → line style
    curves_of = dict(zip(data.with_distances(model), itertools.cycle(CURVES)))  # attack → line style
    for defense, (_, color, marker) in styles(data).items():
        for protocol, (line, records) in accuracy_curves(data, model, defense).items():
            heights, low, high = _percentages(records)
            axes.plot(epsilons, heights, line, color=color, marker=marker, markersize=5, clip_on=False)
            axes.fill_between(epsilons, low, high, color=color, alpha=0.15, linewidth=0)
            shown[protocol] = line
        for attack, record in data.with_distances(model, defense).items():
            axes.step(*_accuracy_over_eps(record, epsilons[-1]), linestyle=curves_of[attack], where="post", color=color)
            shown[f"nearest images, {attack}"] = curves_of[attack]
    axes.set(title=model, xlabel="eps (pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, 100), xticks=epsilons)
    axes.set_xticks(epsilons, [short(f"{eps:g}") for eps in epsilons])
    axes.grid(alpha=0.3)
    add_legend(figure, data, model, shown)
    return figure


def accuracy_curves(data: ReportData, model: str, defense: str) -> dict[str, tuple[str, list[Record | None]]]:
    """Attacks that were evaluated → (line style, records on clean images and at each eps)."""
    # The attacks of the worst case may have run on fewer images than those of the clean accuracy.
    clean = data.record(model, defense, "clean")
    curves: dict[str, tuple[str, list[Record | None]]] = {
        "FGSM, white-box": ("-", [clean, *(data.record(model, defense, "whitebox", eps) for eps in data.epsilons)]),
        "FGSM, transfer": (":", [clean, *(data.record(model, defense, "transfer", eps) for eps in data.epsilons)]),
        "worst case of attacks": ("--", [None, *(data.worst_case(model, defense, eps) for eps in data.epsilons)]),
    }
    return {name: curve for name, curve in curves.items() if any(curve[1][1:])}


def add_legend(figure: Figure, data: ReportData, model: str, lines: Mapping[str, Any]) -> None:
    """Adds a legend below a figure: the defenses of a model by color, and what the line styles mean."""
    defenses = [
        Line2D([], [], color=color, marker=marker, label=title)
        for name, (title, color, marker) in styles(data).items()
        if any(record.model == model and record.defense == name for record in data.records)
    ]
    protocols = [Line2D([], [], color="black", linestyle=line, label=label) for label, line in lines.items()]
    add_legend_below(figure, defenses + protocols, columns=3)


def _accuracy_over_eps(record: Record, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """(eps from 0 to the largest, accuracy in percent from there on), from the distances of the images."""
    assert record.distances is not None
    steps = np.unique(record.distances[record.distances <= largest])
    eps = np.unique([0.0, *steps, largest])
    return eps, 100 * np.mean(record.distances[None] > eps[:, None], axis=1)


def _percentages(records: Sequence[Record | None]) -> np.ndarray:
    """float (3, R): accuracies and the bounds of their intervals in percent, NaN where there is no record."""
    rows = [(None,) * 3 if record is None else (record.accuracy, *record.interval) for record in records]
    return 100 * np.array(rows, dtype=float).T


def training_plot(data: ReportData, model: str) -> Figure:
    """Validation accuracy and training loss of every defense over epochs."""
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    lines = {"validation": "-"}
    for defense, (_, color, marker) in styles(data).items():
        training = data.training.get(f"{model}/{defense}")
        if not training or not training.history:
            continue
        history, kept = training.history, training.best_epoch
        epochs = np.arange(1, len(history["loss"]) + 1)
        bottom.plot(epochs, history["loss"], color=color, marker=marker, markersize=4)
        for metric, line in (("val_accuracy", "-"), ("val_robust_accuracy", "--")):
            if metric in history:
                percentages = 100 * np.array(history[metric])
                top.plot(epochs, percentages, line, color=color, marker=marker, markersize=4)
                if kept:  # 0: no epoch was better than the start
                    top.plot(kept, percentages[kept - 1], "o", markersize=11, markerfacecolor="none", color=color)
                if line == "--":
                    lines["validation, robust"] = line
    top.set(title=model, ylabel="accuracy, %", ylim=(0, 100))
    bottom.set(xlabel="epoch", ylabel="training loss")
    bottom.set_ylim(bottom=0)
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    add_legend(figure, data, model, lines)
    return figure


def matrix_plot(data: ReportData) -> Figure:
    """The transfer matrix as a heat map with its figures; dark where images transfer."""
    table = matrix_table(data)
    assert table is not None
    rows = [row for row in table.rows if row[0] in (data.transfer_matrix or {})]
    figures = np.array([row[1:] for row in rows], dtype=float)
    n_rows, n_columns = figures.shape
    figure = Figure(figsize=(3.5 + 0.7 * n_columns, 2.5 + 0.7 * n_rows), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(figures, cmap="cividis", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(figures):
        text = "–" if np.isnan(value) else f"{value:.0f}"
        axes.text(column, row, text, ha="center", va="center", color="black" if value > 50 else "white")
    across, down = (
        [textwrap.fill(short(name), 30) for name in names] for names in (table.head[1:], [str(r[0]) for r in rows])
    )
    axes.set_xticks(range(n_columns), across, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(n_rows), down, fontsize=8)
    axes.set(xlabel="evaluated model", ylabel="attacked model")
    figure.colorbar(image, label="accuracy, %", shrink=0.8)
    return figure
