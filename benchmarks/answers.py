"""The questions of `results/README.md`, each with a table over all runs and a sentence that sums it up."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfadv.experiments.paper import AUGMENTED, PAPER, RETRAINED, ROWS, STATED_GAINS
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.table import Table
from tfadv.report.tables import mean_gain

BASELINE = PAPER.reference
LARGE_LOSS = 20.0  # points of clean accuracy: such a model hardly classifies, so its gain means nothing
LARGE_GAIN = 10.0  # points under FGSM above which the part that remains under a stronger attack means something

Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about the method that the runs answer.

    Attributes:
      text: the question.
      title: what its table shows, with units.
      head: the columns after the first one, the run.
      rows: the rows of one run; none where it does not tell.
      conclusion: one or two sentences about all runs.
    """

    text: str
    title: str
    head: tuple[str, ...]
    rows: Callable[[ReportData], list[Row]]
    conclusion: Callable[[Sequence[ReportData]], str]

    def answer(self, runs: Mapping[str, ReportData]) -> str:
        """The conclusion and the table in Markdown; `runs` maps the name of a folder to its results."""
        rows: list[Row] = []
        for name, data in runs.items():
            link = f"[{name}]({name}/README.md)"
            for row in self.rows(data):
                rows.append((link, *row))
                link = ""
        if not rows:
            return "No results yet."
        table = Table(self.title, ("run", *self.head), rows)
        return "\n\n".join(filter(None, [self.conclusion(list(runs.values())), table.markdown()]))


def gains(data: ReportData) -> list[Row]:
    """The gain of each recipe, and what the paper states for its method."""
    rows = []
    for recipe in data.recipes:
        models = [model for model in data.models if data.record(model, recipe, "clean")]
        gain = mean_gain(data, recipe, models=models)
        if recipe == BASELINE or gain is None:
            continue
        change = statistics.mean(
            data.accuracy(m, recipe, "clean") - data.accuracy(m, BASELINE, "clean") for m in models
        )
        half = 100 * statistics.mean(_half_widths(data, recipe, BASELINE, models))
        eps = ", ".join(f"{eps:.4g}" for eps in data.epsilons)
        n = max(record.n for record in data.records)
        row = recipe, ", ".join(models), eps, f"{n:,}", f"{gain:+.1f} ± {half:.1f}", f"{change:+.1f}"
        stated = STATED_GAINS[ROWS[data.dataset]] if data.dataset in ROWS and recipe == RETRAINED.name else None
        rows.append((*row, "–" if stated is None else f"{stated:+.2f}"))
    return rows


def against_control(runs: Sequence[ReportData]) -> str:
    """In how many runs the paper's method gains more than its control, and in how many it loses."""
    names = RETRAINED.name, AUGMENTED.name
    found = [[mean_gain(data, name) for name in names] for data in runs if set(names) <= set(data.recipes)]
    pairs = [(ours, control) for ours, control in found if ours is not None and control is not None]
    if not pairs:
        return ""
    differences = [ours - control for ours, control in pairs]
    more, less = ([abs(d) for d in differences if (d > 0) == wanted] for wanted in (True, False))
    text = (
        f"In {len(more)} of the {len(differences)} runs with both, the paper's method (`{RETRAINED.name}`) gains more "
        f"under a new FGSM attack than its control (`{AUGMENTED.name}`)"
    )
    text += f", {_range(more)} points more" if more else ""
    text += f". In the other {len(less)}, it gains {_range(less)} points less." if less else "."
    losing = sum(ours < 0 for ours, _ in pairs)
    return text + (
        f" In {losing} of the {len(pairs)}, it is less accurate under FGSM than the baseline." if losing else ""
    )


def remaining(data: ReportData) -> list[Row]:
    """Accuracy of each recipe under the strongest attack, and the part of the gain under FGSM that remains."""
    return [
        (recipe, model, attack, f"{record.eps:.4g}", f"{record.n:,}", record.interval_text, _percent(part))
        for recipe, model, attack, record, part in _under_strongest(data)
    ]


def parts_by_recipe(runs: Sequence[ReportData]) -> str:
    """The parts that remain, by recipe whatever its settings, and by data set."""
    parts: dict[str, list[float]] = {}
    for data in runs:
        for recipe, model, *_, part in _under_strongest(data):
            lost = data.accuracy(model, BASELINE, "clean") - data.accuracy(model, recipe, "clean")
            if part is not None and lost < LARGE_LOSS:
                name = re.sub(r"\(.*", "", recipe)
                parts.setdefault(f"`{name}` on {data.dataset}", []).append(part)
    if not parts:
        return ""
    listing = "; ".join(f"{name} {_range(found, 0)}%" for name, found in parts.items())
    return (
        f"Where a recipe gains at least {LARGE_GAIN:g} points under FGSM, this part of the gain remains under the "
        f"strongest attack that was run: {listing}. Models that lose {LARGE_LOSS:g} points or more on clean images are "
        "left out."
    )


def carry_over(data: ReportData) -> list[Row]:
    """Accuracies before and after retraining, on the surrogate's stored images and under a new attack."""
    rows, eps = [], max(data.epsilons)
    for model in data.models:
        records = [
            data.record(model, recipe, protocol, eps)
            for protocol in ("transfer", "whitebox")
            for recipe in (BASELINE, RETRAINED.name)
        ]
        if all(records):
            network = f"{model}, the surrogate" if _is_surrogate(data, model) else model
            rows.append((network, f"{eps:.4g}", f"{records[0].n:,}", *(record.interval_text for record in records)))
    return rows


def other_networks(runs: Sequence[ReportData]) -> str:
    """How much networks other than the surrogate gain from its stored images, in each run."""
    gains_of = {"transfer": [], "whitebox": []}
    for data in runs:
        for model in data.models:
            found = {protocol: mean_gain(data, RETRAINED.name, protocol, [model]) for protocol in gains_of}
            if not _is_surrogate(data, model) and None not in found.values():
                for protocol, gain in found.items():
                    gains_of[protocol].append(gain)
    stored, new = gains_of.values()
    if not new:
        return ""
    return (
        f"For {' and '.join(_other_models(runs))}, retraining changes the accuracy on the stored images by "
        f"{_signed_range(stored)} points, averaged over eps, and that under a new FGSM attack by {_signed_range(new)} "
        f"points. They rise in {sum(gain > 0 for gain in stored)} and {sum(gain > 0 for gain in new)} of {len(new)} "
        "cases."
    )


def baselines(data: ReportData) -> list[Row]:
    """The baselines under FGSM, by network."""
    eps = max(data.epsilons)
    fgsm = {model: data.record(model, BASELINE, "whitebox", eps) for model in data.models}
    clean = {model: data.record(model, BASELINE, "clean") for model in data.models}
    if len(fgsm) < 2 or not all(fgsm.values()):
        return []
    return [(m, f"{r.n:,}", clean[m].interval_text, f"{eps:.4g}", r.interval_text) for m, r in fgsm.items()]


def largest_and_smallest(runs: Sequence[ReportData]) -> str:
    """In how many runs the last network, the largest, is more or less accurate under FGSM than the first."""
    pairs = []
    for data in runs:
        if baselines(data):
            first, *_, last = (data.record(model, BASELINE, "whitebox", max(data.epsilons)) for model in data.models)
            pairs.append((first.interval, last.interval))
    if not pairs:
        return ""
    higher = sum(last[0] > first[1] for first, last in pairs)
    lower = sum(last[1] < first[0] for first, last in pairs)
    return (
        f"In {higher} of the {len(pairs)} runs with several networks, the baseline of the largest network is more "
        f"accurate under FGSM at the largest eps than that of the smallest, and in {lower} less accurate; in the "
        "others, the intervals overlap. FGSM alone does not tell which network resists stronger attacks."
    )


def costs(data: ReportData) -> list[Row]:
    """Passes and minutes of each recipe, by network."""
    return [
        (recipe, model, f"{training.gradients:,}", f"{training.seconds / 60:.1f}")
        for model in data.models
        for recipe in data.recipes
        if (training := data.training.get(f"{model}/{recipe}"))
    ]


QUESTIONS = (
    Question(
        "Does the method help, and more than its control?",
        "Gain under a new FGSM attack on each network itself, and change of clean accuracy, in percentage points",
        ("recipe", "networks", "eps", "n", "gain", "clean", "stated by the paper"),
        gains,
        against_control,
    ),
    Question(
        "Does the gain remain under stronger attacks?",
        "Accuracy in % under the strongest attack that was run, and the part of the gain under FGSM that remains",
        ("recipe", "network", "attack", "eps", "n", "accuracy", "remains"),
        remaining,
        parts_by_recipe,
    ),
    Question(
        "Does retraining on the images of ResNet18 carry over to the other networks?",
        "Accuracy in % of baseline and retrained network, on the stored images of the surrogate and under a new FGSM "
        "attack",
        ("network", "eps", "n", "stored: baseline", "stored: retrained", "new: baseline", "new: retrained"),
        carry_over,
        other_networks,
    ),
    Question(
        "Are larger networks more robust?",
        "Accuracy in % of the baselines",
        ("network", "n", "clean", "eps", "FGSM"),
        baselines,
        largest_and_smallest,
    ),
    Question(
        "What does it cost?",
        "Forward and backward passes of single images, and minutes of training, without the model that training starts "
        "from, but with all earlier rounds",
        ("recipe", "network", "gradients", "minutes"),
        costs,
        lambda runs: "",
    ),
)


def _under_strongest(data: ReportData) -> Iterable[tuple]:
    """(recipe, model, attack, record, part of the FGSM gain that remains or None), strongest attack of each model."""
    for model in data.models:
        attack, robust = strongest(data, model)
        if attack == "FGSM" or BASELINE not in robust:
            continue
        for recipe, record in robust.items():
            fgsm = [data.accuracy(model, name, "whitebox", record.eps) for name in (recipe, BASELINE)]
            part = None
            if recipe != BASELINE and None not in fgsm and fgsm[0] - fgsm[1] >= LARGE_GAIN:
                part = 100 * (100 * (record.accuracy - robust[BASELINE].accuracy)) / (fgsm[0] - fgsm[1])
            yield recipe, model, attack, record, part


def _half_widths(data: ReportData, recipe: str, reference: str, models: list[str]) -> list[float]:
    """Half the 95% interval of each difference, as if the two accuracies were independent."""
    found = []
    for model in models:
        for eps in data.epsilons:
            pair = [data.record(model, name, "whitebox", eps) for name in (recipe, reference)]
            if all(pair):
                found.append(1.96 * math.sqrt(sum(r.accuracy * (1 - r.accuracy) / r.n for r in pair)))
    return found


def _is_surrogate(data: ReportData, model: str) -> bool:
    """Whether the stored images were computed on this model."""
    return any(record.source.split("/")[0] == model for record in data.records if record.source)


def _other_models(runs: Sequence[ReportData]) -> list[str]:
    """The names of the networks that are not the surrogate of their run."""
    return list(dict.fromkeys(model for data in runs for model in data.models if not _is_surrogate(data, model)))


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{part:.0f}%"


def _range(values: Sequence[float], digits: int = 1) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _signed_range(values: Sequence[float]) -> str:
    return f"{min(values):+.1f} to {max(values):+.1f}"
