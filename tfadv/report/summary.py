"""The report in a few lines: the accuracies that matter, and summary.txt, which the command line prints."""

from __future__ import annotations

import pathlib

from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.report.certified import certified_table
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData, dataset_name
from tfadv.report.differences import difference, on_shared_images
from tfadv.report.table import Cell, Table, short
from tfadv.report.tables import report_headline


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes summary.txt: the accuracies that matter, then what they mean."""
    table = overview(data)
    lines = [
        f"{dataset_name(data.dataset)}: {table.title}",
        "",
        table.text(),
        "",
        sentence(data),
        report_headline(data),
    ]
    certified = certified_table(data)
    if certified:
        lines += ["", f"{certified.title}.", "", certified.text(), ""]
    lines += warnings(data)
    if data.suspicious:
        lines.append(f"Gradient masking is suspected: {', '.join(data.suspicious)}.")
    (folder / "summary.txt").write_text(short("\n".join(lines)) + "\n", encoding="utf-8")


def sentence(data: ReportData) -> str:
    """What was found: the best defense of the first model under attack, and whether it differs from the next."""
    model, first = data.models[0], data.first
    attack, robust = strongest(data, model)
    if not robust:
        return f"{model} was not attacked."
    robust = {defense: record for defense, record in robust.items() if not record.of}
    if not robust:
        return f"{attack} ended early on {model}: its accuracies are those of the first images and are not compared."
    shared = on_shared_images(list(robust.values()))
    if shared is None:
        return f"The defenses of {model} were attacked by {attack} on different images and can't be compared."
    robust = dict(zip(robust, shared))
    learned = [defense for defense in robust if f"{model}/{defense}" not in data.guessing]
    if not learned:
        return f"{model} has not learned to classify {dataset_name(data.dataset)}."
    best = max(learned, key=lambda defense: robust[defense].accuracy)
    eps = f"{attack} at eps {robust[best].eps:g}"
    if best == first or first not in robust:
        name = model if best == first else f"{model} with the defense {best}"
        text = f"{name} classifies {_percent(robust[best])} of the test images correctly under {eps}."
    else:
        clean = {defense: data.accuracy(model, defense, "clean") for defense in (best, first)}
        text = (
            f"Under {eps}, {model} classifies {_percent(robust[best])} of the test images correctly with the defense "
            f"{best} and {_percent(robust[first])} with {first}; of the clean images, {clean[best]:.1f}% and "
            f"{clean[first]:.1f}%."
        )
    return " ".join([text, *rank(best, {defense: robust[defense] for defense in learned})])


def rank(best: str, robust: dict[str, Record]) -> list[str]:
    """A sentence on whether the images tell the best defense from the others; none where there are no others.

    Args:
      best: the most robust defense.
      robust: defense → its record under the attack, on images that all of them have.
    """
    others = {defense: record for defense, record in robust.items() if defense != best}
    found = {defense: each for defense, other in others.items() if (each := difference(robust[best], other))}
    if not found:
        return []
    images = f"On these {robust[best].n:,} images"
    similar = [defense for defense, each in found.items() if not each.tells]
    if similar:
        return [f"{images}, {best} can't be told apart from {', '.join(similar)}."]
    following = max(found, key=lambda defense: others[defense].accuracy)
    return [f"{images}, {best} is the most robust defense: {found[following]} points above {following}, the next."]


def warnings(data: ReportData) -> list[str]:
    """Sentences on models that have not learned, and on accuracies that are upper bounds, where there are any."""
    found = []
    if data.guessing:
        found.append(
            f"Hardly better than always answering one class: {', '.join(data.guessing)}. Their accuracy under attack "
            "says nothing about robustness."
        )
    if data.upper_bounds:
        found.append(
            f"Upper bounds: {', '.join(data.upper_bounds)}. Robust images have no gradient for the attack to follow, "
            "and a stronger attack may find more."
        )
    early = dict.fromkeys(
        f"{record.model}/{record.defense} under {record.attack_label} ({record.n:,} of {record.of:,})"
        for record in data.records
        if record.of and record.attack != WORST_CASE
    )
    if early:
        found.append(
            f"On the first images only, which decided --require: {', '.join(early)}. These intervals are of 97.5% and "
            "hold whenever one stops."
        )
    return found


def overview(data: ReportData) -> Table:
    """The accuracies that matter, one row per model and defense."""
    eps = max(data.epsilons, default=0.0)
    rows: list[tuple[Cell, ...]] = []
    attacks = []
    for model in data.models:
        attack, robust = strongest(data, model)
        attacks.append(attack)
        for defense in data.defenses:
            clean, fgsm = data.accuracy(model, defense, "clean"), data.accuracy(model, defense, "whitebox", eps)
            strong = robust.get(defense)
            if clean is not None:
                rows.append((model, defense, clean, fgsm, strong.interval_text if strong else None))
    head = ("model", "defense", "clean", f"FGSM, eps {eps:g}")
    if set(attacks) <= {"FGSM"}:
        return Table("Accuracy, %", head, [row[:-1] for row in rows])
    strongest_attack = " / ".join(dict.fromkeys(attacks))
    return Table("Accuracy, % [95% interval]", (*head, f"{strongest_attack}, eps {eps:g}"), rows)


def _percent(record: Record) -> str:
    return f"{100 * record.accuracy:.1f}%"
