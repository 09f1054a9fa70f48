"""What the report says about `--stage=certify`: a table and a plot of certified accuracy over the L2 radius."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tfadv.evaluation.certificate import ABSTAINS
from tfadv.evaluation.records import WORST_CASE
from tfadv.report.comparison import add_legend_below
from tfadv.report.data import ReportData
from tfadv.report.table import Cell, Table

MOST_RADII = 4  # columns of the table
CERTIFIED = (
    "Share of the first test images that the smoothed classifier classifies correctly, whatever perturbation of this "
    "L2 norm is added (solid), up to the largest radius that so many copies can certify (dotted). Dashed: accuracy of "
    "the model itself, without noise, under the strongest of the L2 attacks, where there were any."
)


def certified_table(data: ReportData) -> Table | None:
    """Certified accuracy at some radii with its 95% interval, one row per model and defense; None without any."""
    if not data.certificates:
        return None
    step = max(0.25, min(found.sigma for found in data.certificates.values()))
    most = max(found.ceiling for found in data.certificates.values())
    radii = [step * i for i in range(MOST_RADII) if step * i <= most]
    rows: list[tuple[Cell, ...]] = []
    for name, found in data.certificates.items():
        shares = []
        for radius in radii:
            low, high = found.interval(radius)
            shares.append(f"{100 * found.accuracy(radius):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        abstained = f"{100 * (found.predicted == ABSTAINS).mean():.1f}"
        figures = (f"{found.n:,}", f"{len(found.labels):,}", f"{found.ceiling:.3g}")
        rows.append((*name.split("/", 1), f"{found.sigma:g}", *shares, abstained, *figures))
    columns = ("correct", *(f"radius {radius:g}" for radius in radii[1:]))
    head = ("model", "defense", "sigma", *columns, "abstained", "copies", "images", "largest radius")
    return Table("Certified accuracy of the smoothed classifier in L2, % [95% interval]", head, rows)


def certified_plot(data: ReportData, model: str, styles: dict[str, tuple[str, str, str]]) -> Figure:
    """Certified accuracy of a model over the L2 radius, a color per defense.

    Args:
      data: the results.
      model: name of the model.
      styles: defense → (title, color, marker), see `tfadv.report.plots.styles`.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    for defense, (title, color, marker) in styles.items():
        found = data.certificates.get(f"{model}/{defense}")
        if found is None:
            continue
        edges = np.append(0, np.sort(found.radius[found.radius > 0]))
        heights = [100 * found.accuracy(radius) for radius in edges]
        axes.step([*edges, edges[-1]], [*heights, 0], where="pre", color=color, label=title)
        axes.axvline(found.ceiling, color=color, linestyle=":", linewidth=1)
        attacked = _attacked(data, model, defense)
        if attacked:
            axes.plot(*zip(*attacked), "--", color=color, marker=marker, markersize=5)
    axes.set(title=model, xlabel="L2 radius (pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    add_legend_below(figure, axes.get_legend_handles_labels()[0], columns=3)
    return figure


def _attacked(data: ReportData, model: str, defense: str) -> list[tuple[float, float]]:
    """(eps, least accuracy in percent) under attacks in L2, with the clean accuracy at 0; empty without any."""
    lowest: dict[float, float] = {}
    for record in data.records:
        of_l2 = record.settings and record.settings.get("norm") == "l2" and record.attack != WORST_CASE
        if (record.model, record.defense) == (model, defense) and of_l2 and record.eps is not None:
            lowest[record.eps] = min(100 * record.accuracy, lowest.get(record.eps, 100.0))
    clean = data.accuracy(model, defense, "clean")
    start = [(0.0, clean)] if lowest and clean is not None else []
    return start + sorted(lowest.items())
