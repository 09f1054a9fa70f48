"""Pictures for the report: accuracy over eps, and a sheet of attacked images."""

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt
import numpy as np

from tfadv.report import tables

# Colours that colour-blind readers tell apart (Okabe & Ito), and a marker each for print in grey.
STYLES = {"baseline": ("#D55E00", "o"), "augmented": ("#0072B2", "s"), "retrained": ("#009E73", "^")}


def accuracy_over_eps(path, records, model):
    """Draws white-box (solid) and transfer (dotted) accuracy of a model's variants over eps, clean at 0."""
    epsilons = sorted({r["eps"] for r in records if r["eps"] is not None})
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for variant, (colour, marker) in STYLES.items():
        clean = tables.find(records, model, variant, "clean")
        for protocol, line in (("whitebox", "-"), ("transfer", ":")):
            values = [clean] + [tables.find(records, model, variant, protocol, e) for e in epsilons]
            label = f"{variant}, {'white-box' if protocol == 'whitebox' else 'transfer'}"
            axes.plot([0, *epsilons], values, line, color=colour, marker=marker, label=label)
    axes.set(
        title=f"{tables.TITLES.get(model, model)} under FGSM",
        xlabel="eps (pixels in [0, 1])",
        ylabel="accuracy, %",
        ylim=(0, 101),
        xticks=[0, *epsilons],
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def transfer_matrix(path, table):
    """Draws the transfer matrix as a heat map with its figures; dark is where the images carry over."""
    figures = np.array([row[1:] for row in table.rows], float)
    side = 2.5 + 0.7 * len(figures)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shown = axes.imshow(figures, cmap="cividis", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(figures):
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 50 else "white")
    axes.set_xticks(range(len(figures)), table.head[1:], rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(figures)), [row[0] for row in table.rows], fontsize=8)
    axes.set(xlabel="accuracy of", ylabel="images made on")
    figure.colorbar(shown, label="accuracy, %", shrink=0.8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def example_sheet(path, rows, title):
    """Draws images as rows of clean, perturbation and adversarial, with what each variant sees.

    Args:
      path: PNG to write.
      rows: list of dicts: "clean" and "adversarial", float (H, W, C) in [0, 1]; "true" class;
        "clean_says" and "adversarial_says", lines of text.
      title: str.
    """
    figure, axes = plt.subplots(len(rows), 3, figsize=(9, 1.5 * len(rows) + 0.5), squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize=11)
    for (left, middle, right), row in zip(axes, rows):
        noise = row["adversarial"] - row["clean"]
        noise = 0.5 + 0.5 * noise / max(np.abs(noise).max(), 1e-9)
        for ax, image, text in (
            (left, row["clean"], f"true: {row['true']}\n{row['clean_says']}"),
            (middle, noise, "perturbation,\nmade visible"),
            (right, row["adversarial"], f"adversarial\n{row['adversarial_says']}"),
        ):
            ax.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_ylabel(text, rotation=0, ha="left", va="center", fontsize=8)
            ax.yaxis.set_label_coords(1.04, 0.5)
    figure.savefig(path, dpi=120)
    plt.close(figure)
