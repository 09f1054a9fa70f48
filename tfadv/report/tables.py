"""Tables of a report, and the sentences at its top, from `ReportData`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.report.data import ReportData, TransferRow
from tfadv.report.differences import differences_table, mean_gain
from tfadv.report.table import Cell, Table


def report_tables(data: ReportData) -> dict[str, Table]:
    """All tables of a report by file name, without empty ones: the run's own, then those of every run."""
    from tfadv.report.certified import certified_table  # matplotlib, which `tfadv.paper` does not load
    from tfadv.report.comparison import comparison_table
    from tfadv.report.explanations import vulnerability_table
    from tfadv.report.threats import threats_table

    own = data.tables or default_tables
    tables = {name: table for name, table in own(data).items() if table.rows}
    comparison = comparison_table(data)
    if comparison:
        tables = {"comparison": comparison, **tables}
    for name, table in (
        ("threats", threats_table(data)),
        ("differences", differences_table(data)),
        ("transfer", transfer_table(data)),
        ("attacks", attacks_table(data)),
        ("changes", changes_table(data)),
        ("matrix", matrix_table(data)),
        ("vulnerability", vulnerability_table(data)),
        ("certified", certified_table(data)),
        ("checks", checks_table(data)),
    ):
        if table:
            tables[name] = table
    return tables


def report_headline(data: ReportData) -> str:
    """The sentences at the top of a report: the run's own, or the default ones."""
    return (data.headline or default_headline)(data)


# ---- accuracy on clean images and under FGSM ------------------------------------------------------------


def default_tables(data: ReportData) -> dict[str, Table]:
    """Tables of a run without tables of its own: clean accuracy, and FGSM for each defense."""
    tables = {"clean": clean_table("Accuracy on clean test images, %", data, data.defenses)}
    for defense in data.defenses:
        title = f"Accuracy of {defense} under white-box FGSM, %"
        tables[f"fgsm_{defense}"] = fgsm_table(title, data, defense)
    return tables


def clean_table(title: str, data: ReportData, defenses: Iterable[str]) -> Table:
    """Accuracy on clean images: one row per model, one column per defense, published figures beside them."""
    defenses = list(defenses)
    head, rows = ["model"], []
    with_published = {defense: _is_published(data, defense, [None]) for defense in defenses}
    for defense in defenses:
        head += _heads(defense, with_published[defense])
    for model in data.models:
        cells = [_cells(data, model, defense, None, with_published[defense]) for defense in defenses]
        rows.append((model, *(cell for group in cells for cell in group)))
    return Table(title, tuple(head), rows)


def fgsm_table(title: str, data: ReportData, defense: str) -> Table:
    """Accuracy of a defense under white-box FGSM: one row per eps, one column per model, published figures beside."""
    head, rows = ["eps"], []
    models = _models_of(data, defense)
    with_published = _is_published(data, defense, data.epsilons)
    for model in models:
        head += _heads(model, with_published)
    for eps in data.epsilons:
        cells = [_cells(data, model, defense, eps, with_published) for model in models]
        if any(group[0] is not None for group in cells):
            rows.append((f"{eps:g}", *(cell for group in cells for cell in group)))
    return Table(title, tuple(head), rows)


def _heads(name: str, with_published: bool) -> list[str]:
    return [name, "published", "Δ"] if with_published else [name]


def _is_published(data: ReportData, defense: str, epsilons: Iterable[float | None]) -> bool:
    """Whether there is a published figure for any model of a table."""
    published = data.published
    if not published or not published.covers(data.dataset):
        return False
    figures = [published.accuracy(data.dataset, model, defense, eps) for model in data.models for eps in epsilons]
    return any(figure is not None for figure in figures)


def _cells(data: ReportData, model: str, defense: str, eps: float | None, with_published: bool) -> tuple[Cell, ...]:
    """Our accuracy, on clean images where eps is None; with the published one and the difference if asked for."""
    ours = data.accuracy(model, defense, "clean" if eps is None else "whitebox", eps)
    if not with_published or not data.published:
        return (ours,)
    theirs = data.published.accuracy(data.dataset, model, defense, eps)
    return ours, theirs, None if ours is None or theirs is None else ours - theirs


def default_headline(data: ReportData) -> str:
    """The mean gain of every defense over the first one, and the worst case over stronger attacks where evaluated."""
    return headline(data, {})


def headline(data: ReportData, remarks: dict[str, str]) -> str:
    """The mean gains under FGSM with their intervals; then the worst case over stronger attacks where evaluated.

    Args:
      data: the results.
      remarks: defense → a remark that is put behind its white-box gain, such as a published gain.
    """
    others = [defense for defense in data.defenses if defense != data.first]
    changes = []
    for protocol, images in (("whitebox", "under white-box FGSM"), ("transfer", "on the surrogate's stored images")):
        gains = {defense: mean_gain(data, defense, protocol) for defense in others}
        texts = [
            f"{defense}{_restriction(data, defense)} {gain}"
            + (remarks.get(defense, "") if protocol == "whitebox" else "")
            for defense, gain in gains.items()
            if gain is not None
        ]
        if texts:
            changes.append(f"{images}, {', '.join(texts)}")
    sentences = [f"Test images: {max(record.n for record in data.records):,}."] if data.records else []
    if changes:
        against = f"Mean change in accuracy against {data.first} over models and eps"
        sentences.insert(0, f"{against}, percentage points [95% interval]: {'; '.join(changes)}.")
    return "\n\n".join([" ".join(sentences), *worst_case_sentences(data)])


def _models_of(data: ReportData, defense: str) -> list[str]:
    """The models that a defense was evaluated with."""
    evaluated = {record.model for record in data.records if record.defense == defense}
    return [model for model in data.models if model in evaluated]


def _restriction(data: ReportData, defense: str) -> str:
    """A remark on a defense that was evaluated with some of the models only."""
    models = _models_of(data, defense)
    return "" if len(models) == len(data.models) else f" ({', '.join(models)} only)"


def worst_case_sentences(data: ReportData) -> list[str]:
    """One sentence on the worst case over several attacks at the largest eps for each model; empty without any."""
    worst = [record for record in data.records if record.attack == WORST_CASE and record.settings]
    sentences = []
    for model in dict.fromkeys(record.model for record in worst):
        own = [record for record in worst if record.model == model]
        eps = max(record.eps for record in own if record.eps is not None)
        shown = [record for record in own if record.eps == eps]
        accuracies = ", ".join(f"{record.defense} {100 * record.accuracy:.1f}%" for record in shown)
        attacks = " / ".join(dict.fromkeys(_attacks(record) for record in shown))
        images = " / ".join(dict.fromkeys(f"{record.n:,}" for record in shown))
        sentences.append(
            f"Robust accuracy of {model} at eps {eps:g}, worst case per image over {attacks} on {images} test images: "
            f"{accuracies}."
        )
    return sentences


def _attacks(record: Record) -> str:
    """The attacks of a worst case."""
    return ", ".join(record.settings["attacks"]) if record.settings else ""


# ---- transfer and stronger attacks ----------------------------------------------------------------------


def transfer_table(data: ReportData) -> Table | None:
    """Accuracy of every model and defense on the surrogate's stored test images, or None where there is none."""
    records = [record for record in data.records if record.protocol == "transfer"]
    if not records:
        return None
    epsilons = sorted({record.eps for record in records if record.eps is not None})
    rows = [
        (model, defense, *(data.accuracy(model, defense, "transfer", eps) for eps in epsilons))
        for model, defense in dict.fromkeys((record.model, record.defense) for record in records)
    ]
    sources = ", ".join(dict.fromkeys(str(record.source) for record in records))
    head = ("model", "defense", *(f"eps {eps:g}" for eps in epsilons))
    return Table(f"Transfer. Accuracy on adversarial images of the surrogate {sources}, %", head, rows)


def attacks_table(data: ReportData) -> Table | None:
    """Robust accuracy under each attack of `--attacks` with its 95% interval and its cost; None without any.

    Where attacks look for the nearest adversarial image, their median distance as well.
    """
    records = [record for record in data.records if record.settings and record.eps is not None]
    if not records:
        return None
    epsilons = sorted({record.eps for record in records if record.eps is not None})
    groups: dict[tuple[str, ...], dict[float | None, Record]] = {}
    for record in records:
        attack = record.attack_label
        if record.attack == WORST_CASE:
            attack = f"worst case of {_attacks(record)}"
        # With sizes of its own, an attack may have run twice, on other numbers of images and at other costs.
        evaluation = (record.model, record.defense, attack, str((record.n, record.cost)))
        groups.setdefault(evaluation, {})[record.eps] = record
    with_medians = any(record.median_text for record in records)
    rows: list[tuple[Cell, ...]] = []
    for names, per_eps in groups.items():
        first = next(iter(per_eps.values()))
        accuracies = [per_eps[eps].interval_text if eps in per_eps else None for eps in epsilons]
        keys = ("gradients_per_image", "forwards_per_image", "seconds")
        costs = [f"{first.cost[key]:,.0f}" if first.cost else None for key in keys]
        medians = [first.median_text] if with_medians else []
        rows.append((*names[:3], *accuracies, *medians, f"{first.n:,}", *costs))
    median_head = ["median distance"] if with_medians else []
    cost_head = ("images", "gradients per image", "forwards per image", "seconds")
    head = ("model", "defense", "attack", *(f"eps {eps:g}" for eps in epsilons), *median_head, *cost_head)
    return Table("Attacks. Robust accuracy, % [95% interval], and cost for all eps together", head, rows)


def changes_table(data: ReportData) -> Table | None:
    """Accuracy under attacks without eps, one row each; of corruptions, means over severities.  None without any."""
    records = [record for record in data.records if record.settings and record.eps is None]
    if not records:
        return None
    names = list(dict.fromkeys(f"{record.model}/{record.defense}" for record in records))
    groups: dict[str, dict[tuple[str, str], Record]] = {}  # two attacks may have made the same set
    for record in records:
        for change in _changes(record):
            groups.setdefault(change, {})[f"{record.model}/{record.defense}", record.attack_label] = record
    rows: list[tuple[Cell, ...]] = []
    for change, found in groups.items():
        own = [[record.accuracy for (name, _), record in found.items() if name == wanted] for wanted in names]
        severities = {str((record.settings or {}).get("severity", "")) for record in found.values()} - {""}
        listing = ", ".join(sorted(severities)) or None
        rows.append((change, listing, *(100 * sum(each) / len(each) if each else None for each in own)))
    constants = " / ".join(dict.fromkeys(str((r.settings or {})["constants"]) for r in records if _is_of_set(r)))
    images = " / ".join(dict.fromkeys(f"{record.n:,}" for record in records))
    title = f"Other changes. Accuracy on {images} changed images, %, mean over severities"
    return Table(f"{title} ({constants} constants)" if constants else title, ("change", "severities", *names), rows)


def _changes(record: Record) -> list[str]:
    """The rows that a record without eps counts in."""
    if not _is_of_set(record):
        return [record.attack_label]
    corruption = str((record.settings or {})["corruption"])
    return ["all corruptions", corruption] if record.attack == "corruptions" else [corruption]


def _is_of_set(record: Record) -> bool:
    return "corruption" in (record.settings or {})


def matrix_table(data: ReportData) -> Table | None:
    """Accuracy of every model (columns) on images attacked on another (rows), or None where it was not evaluated.

    Where there were several attacks, the last row names the one on another model that leaves a model least.
    """
    if not data.transfer_matrix:
        return None
    first = next(iter(data.transfer_matrix.values()))
    targets = list(dict.fromkeys(target for row in data.transfer_matrix.values() for target in row["correct"]))
    rows: list[tuple[Cell, ...]] = []
    for source, row in data.transfer_matrix.items():
        counts = [row["correct"].get(target) for target in targets]
        rows.append((source, *(None if count is None else 100 * count / row["n"] for count in counts)))
    by = "PGD"
    if "attack" in first:
        by = "the best of PGD and mifgsm"
        best = [_best_transfer(data.transfer_matrix, target) for target in targets]
        rows += [("best transfer", *best)] if any(best) else []
    title = f"Transfer matrix. Accuracy on images attacked by {by} at eps {first['eps']:g} on the model of the row, %"
    return Table(f"{title} ({first['n']:,} images)", ("attacked on", *targets), rows)


def _best_transfer(matrix: Mapping[str, TransferRow], target: str) -> str | None:
    """The attack, and the other model it attacked, that leave this model the least accuracy."""
    rows = {name: row for name, row in matrix.items() if name != target and target in row["correct"]}
    if not rows:
        return None
    source = min(rows, key=lambda name: rows[name]["correct"][target])
    return f"{rows[source]['attack'][target]} on {source}"


# ---- gradient masking -----------------------------------------------------------------------------------

_RESULTS = {True: "passed", False: "SUSPICIOUS", None: "not evaluated"}


def checks_table(data: ReportData) -> Table | None:
    """The outcome of every check for gradient masking, or None where there were none."""
    rows: list[tuple[Cell, ...]] = [
        (model, check.name, _RESULTS[check.passed], check.sentence)
        for model, checks in data.checks.items()
        for check in checks
    ]
    title = "Checks for gradient masking. A suspicious model's robust accuracy may be too high."
    return Table(title, ("model", "check", "result", "explanation"), rows) if rows else None


def checks_lines(data: ReportData) -> list[str]:
    """Markdown list: one item per model, and one below it for each check that it did not pass."""
    lines = []
    for model, checks in data.checks.items():
        passed = sum(check.passed is True for check in checks)
        lines.append(f"- {model}: {passed} of {len(checks)} checks for gradient masking passed.")
        for check in checks:
            if not check.passed:
                prefix = "SUSPICIOUS, " if check.passed is False else ""
                lines.append(f"  - {prefix}{check.name}: {check.sentence}")
    return lines
