"""The cards at the top of the page: what was found about each model, for readers from outside the field."""

from __future__ import annotations

import dataclasses

from tfadv.evaluation.records import Record
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.differences import difference, on_shared_images

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
      attack: the strongest attack with its eps; "" without any.
      rows: the defense that the others start from and, where another one is more robust, the most robust one.
    """

    model: str
    sentence: str
    attack: str
    rows: tuple[Row, ...]


def cards(data: ReportData) -> list[Card]:
    """One card per model."""
    return [_card(data, model) for model in data.models]


def _card(data: ReportData, model: str) -> Card:
    attack, robust = strongest(data, model)
    rows = []
    for defense in _shown(data, model, robust):
        name = f"{model}/{defense}"
        doubtful = name in data.suspicious or any(bound.startswith(f"{name} under ") for bound in data.upper_bounds)
        rows.append(Row(defense, data.record(model, defense, "clean"), robust.get(defense), doubtful))
    under = f"{attack}, eps {rows[0].attacked.eps:g}" if rows[0].attacked else ""
    return Card(model, _sentence(data, model, rows), under, tuple(rows))


def _shown(data: ReportData, model: str, robust: dict[str, Record]) -> list[str]:
    """The first defense and the most robust of those that have learned, on the images that all were attacked on."""
    own = [defense for defense in data.defenses if any(r.model == model and r.defense == defense for r in data.records)]
    first = data.first if data.first in (robust or own) else next(iter(robust or own))
    compared = {defense: record for defense, record in robust.items() if not record.of}
    shared = dict(zip(compared, on_shared_images(list(compared.values())) or []))
    learned = [defense for defense in shared if f"{model}/{defense}" not in data.guessing]
    best = max(learned, key=lambda defense: shared[defense].accuracy, default=first)
    better = {best, first} <= set(shared) and shared[best].accuracy > shared[first].accuracy
    return [first, best] if better else [first]


def _sentence(data: ReportData, model: str, rows: list[Row]) -> str:
    """Such as "Of 100 images, 98 are classified correctly. Small changes that people hardly see leave 52."."""
    first, *others = rows
    if f"{model}/{first.defense}" in data.guessing and not others:
        return "This model has not learned to tell the classes apart."
    parts = [f"Of 100 images, {_of_100(first.clean)} are classified correctly."] if first.clean else []
    if not first.attacked:
        return " ".join([*parts, "The model was not attacked."])
    parts.append(f"{_changes(first.attacked)} leave {_of_100(first.attacked)}.")
    for other in others:
        clean = f"{_of_100(other.clean)}, and " if other.clean else ""
        parts.append(f"With the defense {other.defense}: {clean}{_of_100(other.attacked)} under attack.")
        gain = difference(other.attacked, first.attacked)
        if gain and not gain.tells:
            parts.append("The gain may be chance.")
    return " ".join(parts)


def _of_100(record: Record | None) -> str:
    """How many of 100 images; "all" and "none" only where the record has all and none."""
    if record is None:
        return "an unknown number"
    if record.correct in (0, record.n):
        return "all" if record.correct else "none"
    count = round(100 * record.accuracy)
    return {0: "fewer than 1", 100: "more than 99"}.get(count, str(count))


def _changes(record: Record) -> str:
    """The perturbations of an attack in plain words."""
    norm, eps = (record.settings or {}).get("norm", "linf"), record.eps or 0.0
    if norm == "pixels":
        return f"Changes of at most {eps:g} pixels"
    if norm != "linf":
        return f"Changes of size {eps:g} ({norm.upper()})"
    if eps <= HARDLY_SEEN:
        return "Small changes that people hardly see"
    return f"Changes of each pixel by at most {100 * eps:g}% of the range from black to white"
