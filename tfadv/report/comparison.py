"""Defenses beside each other: a table, and a plot of robust over clean accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tfadv.evaluation.records import Record
from tfadv.report.data import ReportData
from tfadv.report.differences import on_shared_images
from tfadv.report.table import Cell, Table, short

_CHARACTERS = 90  # of the labels side by side in a legend below a plot 6.4 inches wide
_SYMBOL = 6  # characters that are as wide as the symbol of a label


def comparison_table(data: ReportData) -> Table | None:
    """One row per model and defense at the largest eps of stronger attacks; None without any.

    There is none either where no defense is one that is compared with others at the same `--budget`.

    Differences between its rows are in `tfadv.report.differences.differences_table`.
    """
    shown, eps = data.under_attacks, max(data.epsilons, default=0.0)
    if not shown or not any(defense.uses_budget for defense in data.known_defenses):
        return None
    attacks = list(dict.fromkeys(record.attack_label for record in shown))
    measured = {record.protocol for record in data.records}
    protocols = {"transfer": "transfer", "whitebox": "FGSM"}
    protocols = {name: head for name, head in protocols.items() if name in measured}
    head = (
        *("model", "defense", "clean", *protocols.values(), *attacks),
        *("gradients, 1000s", "minutes"),
        *(["gradient masking"] if data.checks else []),
    )
    rows: list[tuple[Cell, ...]] = []
    for model, defense in dict.fromkeys((record.model, record.defense) for record in data.records):
        strong = {r.attack_label: r for r in shown if (r.model, r.defense) == (model, defense)}
        rows.append(
            (
                *(model, defense, data.accuracy(model, defense, "clean")),
                *(data.accuracy(model, defense, protocol, eps) for protocol in protocols),
                *(_with_interval(strong.get(attack)) for attack in attacks),
                *_cost(data, f"{model}/{defense}"),
                *([_verdict(data, f"{model}/{defense}")] if data.checks else []),
            )
        )
    sizes = " / ".join(sorted({f"{record.n:,}" for record in shown}))
    title = f"Defenses at eps {eps:g}. Accuracy, % [95% interval]; stronger attacks on {sizes} test images"
    return Table(title, head, rows)


def fgsm_tables(data: ReportData) -> dict[str, Table]:
    """Accuracy on clean images and under white-box FGSM, one row per model and defense."""
    rows: list[tuple[Cell, ...]] = [
        (
            *(model, defense, data.accuracy(model, defense, "clean")),
            *(data.accuracy(model, defense, "whitebox", eps) for eps in data.epsilons),
        )
        for model, defense in dict.fromkeys((record.model, record.defense) for record in data.records)
    ]
    head = ("model", "defense", "clean", *(f"eps {eps:g}" for eps in data.epsilons))
    return {"fgsm": Table("Accuracy on clean images and under white-box FGSM, all test images, %", head, rows)}


def _with_interval(record: Record | None) -> str | None:
    return None if record is None else record.interval_text


def _cost(data: ReportData, name: str) -> tuple[Cell, Cell]:
    """Gradients in thousands and minutes of training."""
    if name not in data.training:
        return None, None
    training = data.training[name]
    return f"{training.gradients / 1000:,.0f}", f"{training.seconds / 60:.1f}"


def _verdict(data: ReportData, name: str) -> str | None:
    """What the checks for gradient masking found, and whether training collapsed."""
    if name not in data.checks:
        return None
    failed = [check.name for check in data.checks[name] if check.passed is False]
    text = f"SUSPICIOUS: {', '.join(failed)}" if failed else "none found"
    collapsed = name in data.training and data.training[name].collapsed_epoch
    return f"{text}; collapsed in epoch {collapsed}" if collapsed else text


def comparison_plot(data: ReportData, model: str, styles: dict[str, tuple[str, str, str]]) -> Figure:
    """Robust over clean accuracy, a point per defense; defenses that differ in settings only are joined by a line.

    Args:
      data: the results.
      model: name of the model.
      styles: defense → (title, color, marker), see `tfadv.report.plots.styles`.
    """
    attack, robust = strongest(data, model)
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    families: dict[str, list[tuple[float, float]]] = {}
    handles = []
    for defense, record in robust.items():
        clean = data.record(model, defense, "clean")
        if clean is None:
            continue
        title, color, marker = styles[defense]
        point = 100 * clean.accuracy, 100 * record.accuracy
        xerr, yerr = ([[abs(value - 100 * end)] for end in of.interval] for value, of in zip(point, (clean, record)))
        axes.errorbar(*point, yerr, xerr, color=color, marker=marker, capsize=3, ls="")
        handles.append(Line2D([], [], color=color, marker=marker, ls="", label=title))
        families.setdefault(defense.split("(")[0], []).append(point)
    for points in families.values():
        axes.plot(*zip(*sorted(points)), color="0.6", linewidth=1, zorder=0)
    eps = next(iter(robust.values())).eps
    under = short(f"accuracy under {attack} at eps {eps:g}, %")
    axes.set(title=model, xlabel="accuracy on clean images, %", ylabel=under)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    add_legend_below(figure, handles, columns=2)
    return figure


def add_legend_below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Adds a legend below a figure; with fewer columns where a label is so long that it would not fit."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = min(columns, max(1, _CHARACTERS // (longest + _SYMBOL)))
    figure.legend(handles=handles, loc="outside lower center", fontsize="small", frameon=False, ncols=columns)


def strongest(data: ReportData, model: str) -> tuple[str, dict[str, Record]]:
    """(attack, defense → record at the largest eps) of the attack that left the least accuracy on average.

    Attacks are compared on the images that all of them attacked. Where these are not known, only those attacks are
    compared that attacked the most images.

    FGSM is evaluated on all test images in any case: it is called "FGSM", and stands where `--attacks` has nothing
    stronger.  One eps has another meaning in another norm: attacks in L∞ go first.
    """
    records = [record for record in data.under_attacks if record.model == model and record.attack != "fgsm"]
    records = [record for record in records if record.norm == "linf"] or records
    if not records:
        eps = max(data.epsilons, default=None)
        found = {defense: data.record(model, defense, "whitebox", eps) for defense in data.defenses}
        return "FGSM", {defense: record for defense, record in found.items() if record}
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(record.attack_label, {})[record.defense] = record
    most = max(map(len, groups.values()))
    complete = {label: group for label, group in groups.items() if len(group) == most}
    shared = on_shared_images([record for group in complete.values() for record in group.values()])
    if shared is None:
        images = {label: sum(record.n for record in group.values()) for label, group in complete.items()}
        complete = {label: group for label, group in complete.items() if images[label] == max(images.values())}
        shared = [record for group in complete.values() for record in group.values()]
    sums = dict.fromkeys(complete, 0.0)
    for record in shared:
        sums[record.attack_label] += record.accuracy
    label = min(sums, key=sums.__getitem__)
    return label, complete[label]
