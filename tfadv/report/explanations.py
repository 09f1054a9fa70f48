"""What the report says about `--stage=explain`: a table of vulnerability, and pictures of what models look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from tfadv.report.data import ReportData
from tfadv.report.table import Cell, Table

if TYPE_CHECKING:
    from tfadv.explanation import Explanation

INCH = 1.15  # height and width of a picture
COLUMNS = ("clean", "saliency", "Grad-CAM", "attacked", "saliency", "Grad-CAM", "loss")

# Captions.
VULNERABILITY = (
    "The smallest eps that fools the model, found by FMN, over its first-order estimate: a point per test image "
    "that is classified correctly. The two are equal on the grey line. Points far above it suggest masked gradients."
)
EXPLANATIONS = (
    "Saliency: pixels that change the loss most. Grad-CAM: places that speak for the predicted class. Loss: along the "
    "sign of the gradient (to the right) and a random direction (upwards), from -eps to eps; bright where it is high, "
    "smooth where gradients are not masked."
)


def vulnerability_table(data: ReportData) -> Table | None:
    """Medians over the images that are classified correctly, one row per model and defense; None without any."""
    rows: list[tuple[Cell, ...]] = []
    for name, explanation in data.explanations.items():
        found = explanation.vulnerability
        medians = found.medians()
        keys = ("margin", "gradient_norm", "estimate", "smallest_eps")
        figures = [f"{medians[key]:.3g}" if np.isfinite(medians[key]) else None for key in keys]
        correlation = f"{found.correlation:.2f}" if np.isfinite(found.correlation) else None
        rows.append((*name.split("/", 1), f"{(found.margin > 0).sum():,}", *figures, correlation))
    head = ("model", "defense", "images", "margin", "gradient norm", "estimated eps", "smallest eps", "correlation")
    title = (
        "Vulnerability. Medians over the correctly classified of the first test images: margin of the logits, L1 norm "
        "of its gradient, margin / norm, smallest eps that fools the model; rank correlation of the last two"
    )
    return Table(title, head, rows) if rows else None


def vulnerability_plot(data: ReportData, model: str, styles: dict[str, tuple[str, str, str]]) -> Figure:
    """The smallest eps that fools a model over its first-order estimate, a point per image, a color per defense.

    Args:
      data: the results.
      model: name of the model.
      styles: defense → (title, color, marker), see `tfadv.report.plots.styles`.
    """
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    for defense, (title, color, marker) in styles.items():
        explanation = data.explanations.get(f"{model}/{defense}")
        if explanation is None:
            continue
        found = explanation.vulnerability
        known = np.isfinite(found.smallest_eps) & (found.smallest_eps > 0)
        axes.plot(found.estimate[known], found.smallest_eps[known], marker, ls="", ms=3.5, color=color, label=title)
    axes.set(title=model, xscale="log", yscale="log", xlabel="margin / L1 norm of its gradient")
    axes.set_ylabel("smallest eps that fools the model")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", frameon=False, ncols=3)
    return figure


def explanation_sheet(data: ReportData, model: str, titles: dict[str, str]) -> Figure:
    """Rows of images, one per image and defense: what the model looks at, clean and attacked, and its loss surface.

    Args:
      data: the results.
      model: name of the model.
      titles: defense → title.
    """
    own = {r: data.explanations[f"{model}/{r}"] for r in titles if f"{model}/{r}" in data.explanations}
    count = len(next(iter(own.values())).labels)
    n_rows = count * len(own)
    figure = Figure(figsize=(INCH * len(COLUMNS) + 1.6, INCH * n_rows + 0.5), layout="constrained")
    grid = figure.subplots(n_rows, len(COLUMNS), squeeze=False)
    for i in range(count):
        for k, (defense, explanation) in enumerate(own.items()):
            axes = grid[i * len(own) + k]
            _row(axes, explanation, i)
            true, predicted = (data.class_names[c] for c in (explanation.labels[i], explanation.classes[0, i]))
            text = (
                f"{titles[defense]}\n{true} as {predicted},\nattacked as {data.class_names[explanation.classes[1, i]]}"
            )
            axes[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    for axes, title in zip(grid[0], COLUMNS):
        axes.set_title(title, fontsize=9)
    return figure


def _row(axes: Any, explanation: Explanation, i: int) -> None:
    for k in (0, 1):
        image = explanation.images[k, i].squeeze()
        _show(axes[3 * k], image, cmap="gray", vmin=0, vmax=1)
        saliency = explanation.saliency[k, i]
        _show(axes[3 * k + 1], saliency, cmap="magma", vmin=0, vmax=max(float(np.quantile(saliency, 0.99)), 1e-12))
        gray = image if image.ndim == 2 else image.mean(axis=-1)
        _show(axes[3 * k + 2], gray, cmap="gray", vmin=0, vmax=1)
        if np.isfinite(explanation.cam[k, i]).all():
            axes[3 * k + 2].imshow(explanation.cam[k, i], cmap="inferno", alpha=0.55, vmin=0, vmax=1)
    axes[6].contourf(explanation.surface[i].T, 12, cmap="viridis")
    axes[6].set(xticks=[], yticks=[], box_aspect=1)


def _show(axes: Any, image: np.ndarray, **style: Any) -> None:
    axes.imshow(image, interpolation="nearest", **style)
    axes.set(xticks=[], yticks=[])
