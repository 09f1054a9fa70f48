"""What each attack found for its price: a plot of the accuracy that it leaves over its passes."""

from __future__ import annotations

import itertools

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tfadv.evaluation.records import Record
from tfadv.report.comparison import add_legend_below
from tfadv.report.data import ReportData
from tfadv.report.differences import on_shared_images
from tfadv.report.table import short

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

PRICE = (
    "Accuracy under each attack in L∞, with 95% intervals, over its forward and backward passes per image for all eps "
    "together. A line joins the attacks on one model, from cheap to dear, on the images that all of them attacked. "
    "Where it is flat, the dearer attack finds no more."
)


def priced(data: ReportData, model: str) -> dict[str, list[tuple[float, Record]]]:
    """Defense → (passes per image, record) of the attacks in L∞ at the largest eps, from cheap to dear.

    The accuracies of one defense are those of the images that all of its attacks share, if single images are known;
    attacks that ended early are left out.  Empty where there is one attack only.
    """
    found: dict[str, list[tuple[float, Record]]] = {}
    for record in data.under_attacks:
        if record.model == model and record.norm == "linf" and record.cost and not record.of:
            passes = record.cost["gradients_per_image"] + record.cost["forwards_per_image"]
            found.setdefault(record.defense, []).append((passes, record))
    if len({record.attack_label for each in found.values() for _, record in each}) < 2:
        return {}
    return {defense: sorted(_on_shared_images(each), key=lambda pair: pair[0]) for defense, each in found.items()}


def _on_shared_images(priced: list[tuple[float, Record]]) -> list[tuple[float, Record]]:
    shared = on_shared_images([record for _, record in priced])
    return priced if shared is None else [(passes, record) for (passes, _), record in zip(priced, shared)]


def price_plot(data: ReportData, model: str, styles: dict[str, tuple[str, str, str]]) -> Figure:
    """The accuracy of each defense over the passes of the attacks.

    Args:
      data: the results.
      model: name of the model.
      styles: defense → (title, color, marker), see `tfadv.report.plots.styles`.
    """
    found = priced(data, model)
    attacks = dict.fromkeys(record.attack_label for each in found.values() for _, record in each)
    markers = dict(zip(attacks, itertools.cycle(MARKERS)))
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    for defense, each in found.items():
        _, color, _ = styles[defense]
        axes.plot([passes for passes, _ in each], [100 * r.accuracy for _, r in each], color=color, alpha=0.5)
        for passes, record in each:
            height = 100 * record.accuracy
            low, high = (abs(height - 100 * bound) for bound in record.interval)
            marker = markers[record.attack_label]
            axes.errorbar(
                passes, height, yerr=[[low], [high]], color=color, marker=marker, capsize=3, ls="", clip_on=False
            )
    lines = [Line2D([], [], color=styles[defense][1], label=styles[defense][0]) for defense in found]
    points = [Line2D([], [], color="black", marker=marker, ls="", label=name) for name, marker in markers.items()]
    accuracy = short(f"accuracy at eps {max(data.epsilons):g}, %")
    axes.set(title=model, xlabel="passes per image", ylabel=accuracy, xscale="log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    add_legend_below(figure, lines + points, columns=3)
    return figure
