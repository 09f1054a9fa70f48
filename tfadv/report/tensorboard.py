"""The results for TensorBoard: images, confusion matrices, margins, and a table over all runs (HParams)."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.plugins.hparams import api as hparams

from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.gallery import AttackedImages, Gallery

MAGNIFIED = 0.4  # of the range of a pixel: the size at which a perturbation of size eps is shown


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes one run per model and defense, tensorboard/<model>/<defense>.

    Its HParams are how the model was trained; their metrics are the scalars `clean` and those named after attacks.
    Where there are images, the run also has them, clean, attacked and their difference; confusion matrices; and
    histograms of the margin, with one step per size of perturbation, 0 for clean images.
    """
    for model in data.models:
        for defense in data.defenses:
            if data.accuracy(model, defense, "clean") is None:
                continue
            name = f"{model}/{defense}"
            writer = tf.summary.create_file_writer(str(folder / "tensorboard" / name))
            with writer.as_default(step=0):
                _write_accuracies(data, model, defense)
                if data.gallery and name in data.gallery.models:
                    _write_images(data.gallery, data.gallery.models[name], data.class_names)
            writer.close()


def accuracies(data: ReportData, model: str, defense: str) -> dict[str, float]:
    """Metrics of one model, in [0, 1]: "clean", and the accuracies under FGSM and the strongest attack.

    Args:
      data: the results.
      model: name of the model.
      defense: name of the defense.
    """
    eps = max(data.epsilons, default=0.0)
    attack, robust = strongest(data, model)
    found = {"clean": data.record(model, defense, "clean"), "FGSM": data.record(model, defense, "whitebox", eps)}
    found[attack] = robust.get(defense)
    return {
        (name if name == "clean" else f"{name}, eps {eps:g}"): record.accuracy
        for name, record in found.items()
        if record
    }


def _write_accuracies(data: ReportData, model: str, defense: str) -> None:
    training = data.training.get(f"{model}/{defense}")
    parameters: dict[str, Any] = {"dataset": data.dataset, "model": model, "defense": defense}
    if "seed" in data.provenance:
        parameters["seed"] = int(data.provenance["seed"])
    if training:
        parameters |= {"epochs": len(training.history.get("loss", ())), "gradients": training.gradients}
    hparams.hparams(parameters)
    for name, accuracy in accuracies(data, model, defense).items():
        tf.summary.scalar(name, accuracy)


def _write_images(gallery: Gallery, attacked: AttackedImages, class_names: tuple[str, ...]) -> None:
    sizes = (0.0, *gallery.epsilons)
    for step, eps in enumerate(sizes):
        images = attacked.adversarial[step - 1] if step else gallery.images
        difference = (images.astype(np.float32) - gallery.images) / 255
        scale = MAGNIFIED / eps if eps else 1.0
        tf.summary.image("images", images, step=step, max_outputs=len(images), description=_sizes_text(sizes))
        tf.summary.image(
            "perturbations", np.clip(0.5 + scale * difference, 0, 1), step=step, max_outputs=len(images),
            description=f"Magnified; grey where nothing was changed. {_sizes_text(sizes)}",
        )  # fmt: skip
        title = f"{gallery.attack}, eps {eps:g}" if step else "clean"
        figure = confusion_figure(attacked.confusion[step], class_names, title)
        tf.summary.image("confusion_matrix", _pixels(figure)[None], step=step, description=_sizes_text(sizes))
        tf.summary.histogram(
            "margin", attacked.margins[step], step=step,
            description=f"Logit of the true class minus the largest other one. {_sizes_text(sizes)}",
        )  # fmt: skip


def confusion_figure(confusion: np.ndarray, class_names: tuple[str, ...], title: str) -> Figure:
    """A confusion matrix; colors show the share of the images of a true class.

    Args:
      confusion: int (K, K), numbers of images by true class and predicted class.
      class_names: K names.
      title: shown above.
    """
    k = len(class_names)
    size = 2.4 + 0.36 * min(k, 40)
    figure = Figure(figsize=(size, size), layout="constrained", dpi=80)
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if k <= 20:
        for i, j in np.ndindex(k, k):
            if confusion[i, j]:
                color = "white" if share[i, j] > 0.5 else "black"
                axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=7, color=color)
    if k <= 40:
        axes.set_xticks(range(k), class_names, rotation=90, fontsize=8)
        axes.set_yticks(range(k), class_names, fontsize=8)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    return figure


def _sizes_text(sizes: tuple[float, ...]) -> str:
    return "Step: size of the perturbation. " + ", ".join(f"{step}: eps {eps:g}" for step, eps in enumerate(sizes))


def _pixels(figure: Figure) -> np.ndarray:
    """uint8 (H, W, 4)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; `savefig` would draw twice
    return np.asarray(canvas.buffer_rgba())
