"""The cards at the top of the page: what was found about each model, for readers from outside the field."""

from __future__ import annotations

import dataclasses

from tfadv.evaluation.records import Record
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.differences import on_shared_images
from tfadv.report.summary import rank

HARDLY_SEEN = 8 / 255  # in L∞; papers on color images use it as the largest change that people hardly see


@dataclasses.dataclass(frozen=True)
class Row:
    """The accuracies of one defense.

    Attributes:
      defense: its label.
      clean: the record on clean images, or None.
      attacked: the record under the strongest attack at the largest eps, or None where there was no attack.
      doubtful: whether the accuracy under attack may be too high.
    """

    defense: str
    clean: Record | None
    attacked: Record | None
    doubtful: bool


@dataclasses.dataclass(frozen=True)
class Card:
    """A model.

    Attributes:
      model: its name.
      sentence: the accuracies in plain words.
      rank: whether the images tell the most robust defense from the others; "" where there are no others.
      attack: the strongest attack with its eps; "" without any.
      rows: the defense that the others start from and, where another one is more robust, the most robust one.
    """

    model: str
    sentence: str
    rank: str
    attack: str
    rows: tuple[Row, ...]


def cards(data: ReportData) -> list[Card]:
    """One card per model."""
    return [_card(data, model) for model in data.models]


def _card(data: ReportData, model: str) -> Card:
    attack, robust = strongest(data, model)
    own = [defense for defense in data.defenses if any(r.model == model and r.defense == defense for r in data.records)]
    first = data.first if data.first in (robust or own) else next(iter(robust or own))
    compared = {defense: record for defense, record in robust.items() if not record.of}
    shared = dict(zip(compared, on_shared_images(list(compared.values())) or []))
    learned = {defense: record for defense, record in shared.items() if f"{model}/{defense}" not in data.guessing}
    best = max(learned, key=lambda defense: shared[defense].accuracy, default=first)
    better = {best, first} <= set(shared) and shared[best].accuracy > shared[first].accuracy
    rows = [_row(data, model, defense, robust.get(defense)) for defense in ([first, best] if better else [first])]
    under = f"{attack}, eps {rows[0].attacked.eps:g}" if rows[0].attacked else ""
    return Card(model, _sentence(data, model, rows), " ".join(rank(best, learned)), under, tuple(rows))


def _row(data: ReportData, model: str, defense: str, attacked: Record | None) -> Row:
    name = f"{model}/{defense}"
    doubtful = name in data.suspicious or any(bound.startswith(f"{name} under ") for bound in data.upper_bounds)
    return Row(defense, data.record(model, defense, "clean"), attacked, doubtful)


def _sentence(data: ReportData, model: str, rows: list[Row]) -> str:
    """Such as "The model classifies 98 of 100 images correctly, and 52 after an attack that changes them by …"."""
    first, *others = rows
    if f"{model}/{first.defense}" in data.guessing and not others:
        return "This model has not learned to tell the classes apart."
    text = f"The model classifies {_of_100(first.clean)} of 100 images correctly"
    if not first.attacked:
        return f"{text}. It was not attacked."
    sentences = [f"{text}, and {_of_100(first.attacked)} after an attack that {_changes(first.attacked)}."]
    for other in others:
        accuracies = f"{_of_100(other.clean)} correctly, and {_of_100(other.attacked)} after the attack"
        sentences.append(f"With the defense {other.defense}, it classifies {accuracies}.")
    return " ".join(sentences)


def _of_100(record: Record | None) -> str:
    """How many of 100 images; "all" and "none" only where the record has all and none."""
    if record is None:
        return "an unknown number"
    if record.correct in (0, record.n):
        return "all" if record.correct else "none"
    count = round(100 * record.accuracy)
    return {0: "fewer than 1", 100: "more than 99"}.get(count, str(count))


def _changes(record: Record) -> str:
    """What an attack does to images, in plain words."""
    norm, eps = (record.settings or {}).get("norm", "linf"), record.eps or 0.0
    if norm == "pixels":
        return f"changes at most {eps:g} pixels"
    if norm != "linf":
        return f"changes them by at most {eps:g} in {norm.upper()}"
    if eps <= HARDLY_SEEN:
        return "changes them so little that people hardly see it"
    return f"changes each pixel by at most {100 * eps:.3g}% of the range from black to white"
