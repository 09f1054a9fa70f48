"""One table of all threats: how accurate each defense stays under each kind of change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tfadv.evaluation.intervals import mean_interval
from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.report.data import NORMS, ReportData
from tfadv.report.table import Cell, Table

OTHERS = {"spatial": "rotation and shift", "patch": "patch"}

_Row = tuple[str, str, set[int], Callable[[str], Cell]]  # threat, attack, images, and the cell of a "model/defense"


def threats_table(data: ReportData) -> Table | None:
    """A row per threat, a column per defense; None where FGSM and attacks of one norm are all there is.

    Of several models, each has columns of its own.
    Attacks stand at the largest eps of the run, or at each size of their own.  The accuracy under all corruptions is
    the mean over the sets.
    """
    names = list(dict.fromkeys(f"{record.model}/{record.defense}" for record in data.records))
    rows = [
        (threat, attack, " / ".join(f"{n:,}" for n in sorted(images)), *map(cell, names))
        for part in (_clean(data), _under_attacks(data), _transfer(data), _other_changes(data), _certified(data))
        for threat, attack, images, cell in part
    ]
    if len({str(row[0]).split(" ")[0] for row in rows} - {"none", "stored"}) < 2:
        return None
    title = "Threats. Accuracy, % [95% interval], without a change and under each kind of change"
    heads = names if len(data.models) > 1 else [name.split("/", 1)[1] for name in names]
    return Table(title, ("threat", "attack", "images", *heads), rows)


def _row(threat: str, attack: str, records: list[Record]) -> _Row:
    found = {f"{record.model}/{record.defense}": record.interval_text for record in records}
    return threat, attack, {record.n for record in records}, found.get


def _clean(data: ReportData) -> Iterator[_Row]:
    yield _row("none", "", [record for record in data.records if record.protocol == "clean"])


def _under_attacks(data: ReportData) -> Iterator[_Row]:
    """Attacks with a size, ordered by norm and size."""
    eps, found = max(data.epsilons, default=None), dict[tuple[int, float, str], list[Record]]()
    attacked = [r for r in data.records if r.protocol == "whitebox" and r.eps is not None and r.attack != WORST_CASE]
    sizes: dict[str, set[float | None]] = {}
    for record in attacked:
        sizes.setdefault(record.attack_label, set()).add(record.eps)
    for record in attacked:
        of_run = sizes[record.attack_label].issuperset(data.epsilons)
        if of_run and record.eps in data.epsilons and record.eps != eps:
            continue
        label = "FGSM" if record.settings is None else record.attack_label
        found.setdefault((list(NORMS).index(record.norm), record.eps or 0.0, label), []).append(record)
    for (norm, size, label), records in sorted(found.items(), key=lambda item: item[0]):
        yield _row(f"{list(NORMS.values())[norm]} {size:g}", label, records)


def _transfer(data: ReportData) -> Iterator[_Row]:
    eps = max(data.epsilons, default=None)
    records = [record for record in data.records if record.protocol == "transfer" and record.eps == eps]
    if records:
        yield _row(f"stored images {eps:g}", "FGSM on the surrogate", records)


def _other_changes(data: ReportData) -> Iterator[_Row]:
    """Attacks without a size."""
    groups: dict[str, dict[str, dict[str, Record]]] = {}  # two attacks may have made the same set
    for record in data.records:
        if record.settings and record.eps is None:
            label = record.attack if record.attack == "corruptions" else record.attack_label
            own = groups.setdefault(str(label), {})
            own.setdefault(f"{record.model}/{record.defense}", {})[record.attack_label] = record
    for label, found in groups.items():
        first = next(iter(next(iter(found.values())).values()))
        threat = "corruption" if "corruption" in (first.settings or {}) else OTHERS.get(str(first.attack), "other")
        images = {record.n for own in found.values() for record in own.values()}
        yield threat, label, images, {name: _mean(list(own.values())) for name, own in found.items()}.get


def _mean(records: list[Record]) -> Cell:
    """The mean accuracy over sets, with its interval where all are of the same images, and these are known."""
    if len(records) == 1:
        return records[0].interval_text
    value, outcomes = sum(record.accuracy for record in records) / len(records), [r.per_image for r in records]
    if any(each is None for each in outcomes) or len({record.n for record in records}) > 1:
        return 100 * value
    low, high = mean_interval(np.array(outcomes))
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _certified(data: ReportData) -> Iterator[_Row]:
    """Certified accuracy at the radius of the smallest noise."""
    if not data.certificates:
        return
    radius = min(found.sigma for found in data.certificates.values())
    cells = {}
    for name, found in data.certificates.items():
        low, high = found.interval(radius)
        cells[name] = f"{100 * found.accuracy(radius):.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    images = {len(found.radius) for found in data.certificates.values()}
    yield f"any within L2 {radius:g}", "certified", images, cells.get
