"""The report in a few lines: the accuracies that matter, and summary.txt, which the command line prints."""

from __future__ import annotations

import pathlib

from tfadv.evaluation.records import Record
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.table import Cell, Table
from tfadv.report.tables import report_headline


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes summary.txt: the accuracies that matter, then what they mean."""
    table = overview(data)
    lines = [f"{data.dataset}: {table.title}", "", table.text(), "", sentence(data), report_headline(data)]
    if warning := guessing_warning(data):
        lines.append(warning)
    if data.suspicious:
        lines.append(f"Gradient masking is suspected: {', '.join(data.suspicious)}.")
    (folder / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def sentence(data: ReportData) -> str:
    """What was found, in one sentence: the most robust recipe of the first model, beside the reference."""
    model, reference = data.models[0], data.experiment.reference
    attack, robust = strongest(data, model)
    if not robust:
        return f"{model} was not attacked."
    learned = [recipe for recipe in robust if f"{model}/{recipe}" not in data.guessing]
    if not learned:
        return f"{model} has not learned to classify {data.dataset}."
    best = max(learned, key=lambda recipe: robust[recipe].accuracy)
    eps = f"{attack} at eps {robust[best].eps:g}"
    clean = {recipe: data.accuracy(model, recipe, "clean") for recipe in (best, reference)}
    if best == reference or reference not in robust:
        return f"{model} classifies {_percent(robust[best])} of the test images correctly under {eps}."
    return (
        f"Under {eps}, {model} classifies {_percent(robust[best])} of the test images correctly with the recipe {best} "
        f"and {_percent(robust[reference])} with {reference}; of the clean images, {clean[best]:.1f}% and "
        f"{clean[reference]:.1f}%."
    )


def guessing_warning(data: ReportData) -> str:
    """Which models have not learned, and what this means; "" where all have."""
    if not data.guessing:
        return ""
    return (
        f"Hardly better than always answering one class: {', '.join(data.guessing)}. Their accuracy under attack says "
        "nothing about robustness."
    )


def overview(data: ReportData) -> Table:
    """The accuracies that matter, one row per model and recipe."""
    eps = max(data.epsilons, default=0.0)
    rows: list[tuple[Cell, ...]] = []
    attacks = []
    for model in data.models:
        attack, robust = strongest(data, model)
        attacks.append(attack)
        for recipe in data.recipes:
            clean, fgsm = data.accuracy(model, recipe, "clean"), data.accuracy(model, recipe, "whitebox", eps)
            strong = robust.get(recipe)
            if clean is not None:
                rows.append((model, recipe, clean, fgsm, strong.interval_text if strong else None))
    head = ("model", "recipe", "clean", f"FGSM, eps {eps:g}")
    if set(attacks) <= {"FGSM"}:
        return Table("Accuracy, %", head, [row[:-1] for row in rows])
    strongest_attack = " / ".join(dict.fromkeys(attacks))
    return Table("Accuracy, % [95% interval]", (*head, f"{strongest_attack}, eps {eps:g}"), rows)


def _percent(record: Record) -> str:
    return f"{100 * record.accuracy:.1f}%"
