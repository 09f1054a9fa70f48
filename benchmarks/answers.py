"""The questions of `results/README.md`: functions from the results of one run to sentences, "" if it does not tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from tfadv.experiments.paper import AUGMENTED, EPSILONS, PAPER, RETRAINED, ROWS, STATED_GAINS
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.tables import mean_gain

BASELINE = PAPER.reference


def helps(data: ReportData) -> str:
    """The gain of each recipe, and that of the paper's method over its control."""
    parts = []
    for recipe in data.recipes:
        models = [model for model in data.models if data.record(model, recipe, "clean")]
        gain = mean_gain(data, recipe, models=models)
        if recipe != BASELINE and gain is not None:
            change = statistics.mean(
                data.accuracy(m, recipe, "clean") - data.accuracy(m, BASELINE, "clean") for m in models
            )
            only = "" if models == list(data.models) else f" ({', '.join(models)})"
            half = 100 * statistics.mean(_half_widths(data, recipe, BASELINE, models))
            parts.append(f"{recipe}{only} {gain:+.1f} ± {half:.1f} points, clean {change:+.1f}")
    if not parts:
        return ""
    n = max(record.n for record in data.records)
    text = f"gain at eps {_eps(data)}, n = {n:,}: {'; '.join(parts)}."
    if {RETRAINED.name, AUGMENTED.name} <= set(data.recipes):
        difference = mean_gain(data, RETRAINED.name) - mean_gain(data, AUGMENTED.name)
        than = f"{abs(difference):.1f} points {'more' if difference > 0 else 'less'}"
        text += f" The paper's method (retrained) gains {than} than its control (augmented)."
    if data.dataset in ROWS:
        stated = STATED_GAINS[ROWS[data.dataset]]
        at = "" if data.epsilons == EPSILONS else " at eps 0.01, 0.02 and 0.03"
        text += f" The paper states {stated:+.2f}{at}."
    return text


def remains(data: ReportData) -> str:
    """Accuracy of each recipe under the strongest attack, and how much of the gain under FGSM it leaves."""
    parts = []
    for model in data.models:
        attack, robust = strongest(data, model)
        if attack == "FGSM" or BASELINE not in robust:
            continue
        cells = []
        for recipe, record in robust.items():
            cell = f"{recipe} {record.interval_text}"
            fgsm = [data.accuracy(model, r, "whitebox", record.eps) for r in (recipe, BASELINE)]
            if recipe != BASELINE and None not in fgsm and fgsm[0] - fgsm[1] > 1:
                gain = 100 * (record.accuracy - robust[BASELINE].accuracy)
                cell += f" ({100 * gain / (fgsm[0] - fgsm[1]):.0f}% of the FGSM gain)"
            cells.append(cell)
        first = next(iter(robust.values()))
        parts.append(f"{model} under {attack} at eps {first.eps:g}, n = {first.n:,}: {', '.join(cells)}.")
    return " ".join(parts)


def carries_over(data: ReportData) -> str:
    """How the retrained models do on the surrogate's stored images, and under a new attack."""
    eps, parts = max(data.epsilons), []
    for model in data.models:
        stored = [data.record(model, recipe, "transfer", eps) for recipe in (BASELINE, RETRAINED.name)]
        new = [data.record(model, recipe, "whitebox", eps) for recipe in (BASELINE, RETRAINED.name)]
        if all(stored) and all(new):
            parts.append(
                f"{model}{_surrogate(data, model)} from {stored[0].interval_text} to {stored[1].interval_text} on "
                f"the stored images, from {new[0].interval_text} to {new[1].interval_text} under a new attack"
            )
    if not parts:
        return ""
    n = data.record(data.models[0], BASELINE, "clean").n
    return f"retraining on the stored images of the surrogate, eps {eps:g}, n = {n:,}: {'; '.join(parts)}."


def larger(data: ReportData) -> str:
    """The accuracy of the baselines under FGSM, by model."""
    eps = max(data.epsilons)
    records = {model: data.record(model, BASELINE, "whitebox", eps) for model in data.models}
    clean = {model: data.record(model, BASELINE, "clean") for model in data.models}
    if len(records) < 2 or not all(records.values()):
        return ""
    cells = [f"{m} {records[m].interval_text} (clean {clean[m].interval_text})" for m in data.models]
    return f"baselines under FGSM at eps {eps:g}, n = {next(iter(records.values())).n:,}: {', '.join(cells)}."


def costs(data: ReportData) -> str:
    """Passes and minutes of each recipe, by model."""
    parts = []
    for model in data.models:
        own = {name.split("/")[1]: t for name, t in data.training.items() if name.split("/")[0] == model}
        cells = [
            f"{recipe} {own[recipe].gradients:,} in {own[recipe].seconds / 60:.1f} min"
            for recipe in data.recipes
            if recipe in own
        ]
        if cells:
            parts.append(f"{model}: {'; '.join(cells)}")
    head = (
        "forward and backward passes of single images, and minutes, without the model that training starts from, but "
        "with all earlier rounds"
    )
    return f"{head}. {'. '.join(parts)}." if parts else ""


QUESTIONS: dict[str, Callable[[ReportData], str]] = {
    "Does the method help, and more than its control?": helps,
    "Does the gain remain under stronger attacks?": remains,
    "Does retraining on the images of ResNet18 carry over to the other networks?": carries_over,
    "Are larger networks more robust?": larger,
    "What does it cost?": costs,
}


def _half_widths(data: ReportData, recipe: str, reference: str, models: list[str]) -> list[float]:
    """Half the 95% interval of each difference, as if the two accuracies were independent."""
    found = []
    for model in models:
        for eps in data.epsilons:
            pair = [data.record(model, name, "whitebox", eps) for name in (recipe, reference)]
            if all(pair):
                found.append(1.96 * math.sqrt(sum(r.accuracy * (1 - r.accuracy) / r.n for r in pair)))
    return found


def _surrogate(data: ReportData, model: str) -> str:
    """A remark on the model that the stored images were computed on."""
    sources = {record.source for record in data.records if record.source}
    return " (the surrogate itself)" if any(source.split("/")[0] == model for source in sources) else ""


def _eps(data: ReportData) -> str:
    return ", ".join(f"{eps:g}" for eps in data.epsilons)
