"""The example sheet: attacked images, and what each defense's model predicts for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfadv.report.data import ReportData
from tfadv.report.gallery import AttackedImages, choose_images

# Lengths in inches; the figure is as large as its texts need.
IMAGE = 1.35
GAP = 0.12
TOP = 0.75
LINE = 0.17
POINTS = 9
WRONG = "#B22222"
MOST = 6  # images


def example_sheet(data: ReportData) -> Figure:
    """Draws one row per image: clean image, predictions, perturbation, adversarial image, predictions.

    The images are those of the first model at the largest eps, at most `MOST`; images on which the attack on the
    first defense succeeds come first.  Wrong predictions are red and marked with ✗.

    Raises:
      ValueError: `data.gallery` is None.
    """
    gallery = data.gallery
    if gallery is None:
        raise ValueError("there is no gallery.")
    model, titles = data.models[0], {defense.label: defense.title for defense in data.known_defenses}
    defenses = {
        name: gallery.models[f"{model}/{name}"] for name in data.defenses if f"{model}/{name}" in gallery.models
    }
    first = defenses[data.first]
    rows = _shown(first, gallery.labels)
    left, right = [], []  # one list of (text, whether it is wrong) per image
    for i in rows:
        label = gallery.labels[i]
        left.append([(f"true class: {data.class_names[label]}", False)])
        right.append([("under its own attack:", False)])
        for name, attacked in defenses.items():
            for lines, eps in ((left[-1], 0), (right[-1], -1)):
                predicted, confidence = attacked.classes[eps, i], attacked.confidences[eps, i]
                wrong = bool(predicted != label)
                text = f"{data.class_names[predicted]} ({100 * confidence:.0f}%)"
                lines.append((f"{'✗' if wrong else '✓'} {titles.get(name, name)}: {text}", wrong))
    images, adversarial = (pixels[rows] / np.float32(255) for pixels in (gallery.images, first.adversarial[-1]))
    title = f"{model} under {gallery.attack} at eps {gallery.epsilons[-1]:g}"
    return _draw(title, images, adversarial - images, adversarial, left, right)


def _shown(attacked: AttackedImages, labels: np.ndarray) -> np.ndarray:
    """The positions of the images to show: first those classified correctly, but not under attack."""
    fooled = np.flatnonzero((attacked.classes[0] == labels) & (attacked.classes[-1] != labels))
    others = np.setdiff1d(np.arange(len(labels)), fooled)
    return np.concatenate([fooled[choose_images(labels[fooled], MOST)], others])[:MOST]


Lines = list[list[tuple[str, bool]]]


def _draw(
    title: str, images: np.ndarray, perturbations: np.ndarray, adversarial: np.ndarray, left: Lines, right: Lines
) -> Figure:
    """Places images and texts; `left` and `right` are the lines beside the clean and the adversarial images."""
    left_width, right_width = _width(left), _width(right)
    row = max(IMAGE, LINE * max(map(len, left))) + GAP
    # The left edges of: clean image, its text, perturbation, adversarial image, its text.
    edges = np.cumsum([GAP, IMAGE + GAP, left_width + GAP, IMAGE + GAP, IMAGE + GAP])
    width, height = float(edges[-1] + right_width + GAP), TOP + row * len(images)
    figure = Figure(figsize=(width, height))

    def write(text: str, x: float, y: float, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **{"fontsize": POINTS, "va": "center", **style})

    write(title, GAP, 0.2, fontsize=POINTS + 2, weight="bold")
    for text, edge in (("clean", edges[0]), ("perturbation, scaled", edges[2]), ("adversarial", edges[3])):
        write(text, edge + IMAGE / 2, TOP - 0.15, ha="center")
    for i in range(len(images)):
        top = TOP + i * row
        scaled = 0.5 + 0.5 * perturbations[i] / max(float(np.abs(perturbations[i]).max()), 1e-9)
        for image, edge in ((images[i], edges[0]), (scaled, edges[2]), (adversarial[i], edges[3])):
            place = (edge / width, 1 - (top + IMAGE) / height, IMAGE / width, IMAGE / height)
            axes = figure.add_axes(place, xticks=[], yticks=[])
            axes.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for lines, edge in ((left[i], edges[1]), (right[i], edges[4])):
            for k, (text, wrong) in enumerate(lines):
                y = top + IMAGE / 2 + (k - (len(lines) - 1) / 2) * LINE
                write(text, edge, y, color=WRONG if wrong else "black")
    return figure


def _width(lines: Lines) -> float:
    """The width of the longest text in inches."""
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)  # measures texts
    texts = {text for group in lines for text, _ in group}
    return max(figure.text(0, 0, text, fontsize=POINTS).get_window_extent().width for text in texts) / 100
