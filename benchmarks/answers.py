"""The questions of `results/README.md`, each with a table over all runs and a sentence that sums it up."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfadv.evaluation.intervals import Difference
from tfadv.evaluation.records import Record
from tfadv.experiments.paper import AUGMENTED, PAPER, RETRAINED, ROWS, STATED_GAINS
from tfadv.report.comparison import strongest
from tfadv.report.data import ReportData
from tfadv.report.differences import difference, mean_difference, mean_gain, on_shared_images
from tfadv.report.table import Table

BASELINE = PAPER.reference
LARGE_LOSS = 20.0  # points of clean accuracy: such a model hardly classifies, so its gain means nothing
LARGE_GAIN = 10.0  # points under FGSM above which the gain under a stronger attack is summed up
CHOSEN_ON_TEST_IMAGES = {
    "`rounds` on cats_vs_dogs": ", with settings that were chosen by accuracies on validation images and on the first "
    "1,000 of these test images"
}
# Flags that may differ between runs of which only the seed is different.
NOT_TRAINING = ("seed", "stage", "models", "defenses", "defense_models", "attacks", "eval_size", "workdir", "surrogate")

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
        clean = mean_difference([tuple(data.record(m, name, "clean") for name in (recipe, BASELINE)) for m in models])
        eps = ", ".join(f"{eps:.4g}" for eps in data.epsilons)
        row = recipe, ", ".join(models), eps, f"{gain.n:,}", *_cells(gain), *_cells(clean)
        stated = STATED_GAINS[ROWS[data.dataset]] if data.dataset in ROWS and recipe == RETRAINED.name else None
        rows.append((*row, "–" if stated is None else f"{stated:+.2f}"))
    return rows


def against_control(runs: Sequence[ReportData]) -> str:
    """Whether the paper's method gains more than its control, by data set and eps, and what another seed changes."""
    lines, outcomes = [], []
    for name, own in _by_experiment(runs).items():
        pairs = [(data, _less_control(data)) for data in own]
        found = [(less, mean_gain(data, RETRAINED.name)) for data, less in pairs if less]
        if found:
            less, gain = ([each.points[0] for each in column] for column in zip(*found))
            lines.append(
                f"- {name}: {_signed_range(less)} points; over the baseline {_signed_range(gain)}. {_runs(found)}"
            )
            outcomes.append({(each.low > 0) - (each.high < 0) for each, _ in found})
    if not lines:
        return ""
    more, fewer = ([outcome == {sign} for outcome in outcomes].count(True) for sign in (1, -1))
    text = (
        f"The gain of the paper's method (`{RETRAINED.name}`) under a new FGSM attack minus that of its control "
        f"(`{AUGMENTED.name}`), by data set and eps. Runs that differ in seeds, networks, images and training are not "
        f"counted one by one: in all runs of {more} of these {len(outcomes)} the method gains more, in all runs of "
        f"{fewer} it gains less; in the others, the runs differ or an interval contains 0."
    )
    return "\n\n".join(filter(None, [text, "\n".join(lines), _seeds(runs)]))


def _less_control(data: ReportData) -> Difference | None:
    """Accuracy under FGSM of the paper's method less that of its control."""
    names = RETRAINED.name, AUGMENTED.name
    levels = [(model, eps) for model in data.models for eps in data.epsilons]
    return mean_difference([tuple(data.record(m, name, "whitebox", eps) for name in names) for m, eps in levels])


def _seeds(runs: Sequence[ReportData]) -> str:
    """How much the gains of runs differ that differ in their seed only; "" without such runs."""
    sentences = []
    for own in _same_but_for_the_seed(runs):
        seeds = ", ".join(str(data.records[0].seed) for data in own)
        for model in own[0].models:
            for recipe in own[0].recipes:
                found = [mean_gain(data, recipe, models=[model]) for data in own]
                if recipe != BASELINE and None not in found:
                    values = [gain.points[0] for gain in found]
                    sentences.append(
                        f"`{recipe}` of {model} on {own[0].dataset} gains {_listed(values)} points with the seeds "
                        f"{seeds} (standard deviation {statistics.stdev(values):.1f})."
                    )
    return " ".join(["The intervals below do not include what another seed changes:", *sentences]) if sentences else ""


def remaining(data: ReportData) -> list[Row]:
    """Accuracy and gain of each recipe under the strongest attack, beside the gain under FGSM at the same eps."""
    return [
        (
            *(recipe, model, attack, f"{record.eps:.4g}", f"{record.n:,}"),
            *(f"{100 * value:.1f}" for value in (record.accuracy, *record.interval)),
            *_cells(gain),
            *_cells(fgsm),
            f"{fgsm.n:,}" if fgsm else "–",
        )
        for recipe, model, attack, record, gain, fgsm in _under_strongest(data)
    ]


def gains_by_recipe(runs: Sequence[ReportData]) -> str:
    """The gains under FGSM and under the strongest attack, by recipe whatever its settings, and by data set."""
    found: dict[str, list[tuple[float, float]]] = {}
    for data in runs:
        for recipe, model, *_, gain, fgsm in _under_strongest(data):
            lost = data.accuracy(model, BASELINE, "clean") - data.accuracy(model, recipe, "clean")
            if gain and fgsm and fgsm.points[0] >= LARGE_GAIN and lost < LARGE_LOSS:
                name = re.sub(r"\(.*", "", recipe)
                pair = fgsm.points[0], gain.points[0]
                found.setdefault(f"`{name}` on {data.dataset}", []).append(pair)
    if not found:
        return ""
    lines = [
        f"- {name}: {_signed_range([fgsm for fgsm, _ in own])} under FGSM, {_signed_range([gain for _, gain in own])} "
        f"under the strongest attack{CHOSEN_ON_TEST_IMAGES.get(name, '')}."
        for name, own in found.items()
    ]
    return (
        f"Gains in points at the largest eps, where a recipe gains at least {LARGE_GAIN:g} under FGSM. FGSM may be of "
        "more images than the other attack, see the table, so no share of the gain is given. Models that lose "
        f"{LARGE_LOSS:g} points or more on clean images are left out.\n\n"
    ) + "\n".join(lines)


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
    """How much networks other than the surrogate gain from its stored images, by data set and eps."""
    lines = []
    for name, own in _by_experiment(runs).items():
        others = [(data, model) for data in own for model in data.models if not _is_surrogate(data, model)]
        pairs = [
            [mean_gain(data, RETRAINED.name, protocol, [model]) for protocol in ("transfer", "whitebox")]
            for data, model in others
        ]
        found = [[gain.points[0] for gain in pair] for pair in pairs if None not in pair]
        if found:
            stored, new = zip(*found)
            lines.append(
                f"- {name}: {_signed_range(stored)} on the stored images, {_signed_range(new)} under a new attack."
            )
    if not lines:
        return ""
    text = (
        f"What retraining changes for {' and '.join(_other_models(runs))}, in points, averaged over eps, on the stored "
        "images of the surrogate and under a new FGSM attack:"
    )
    return text + "\n\n" + "\n".join(lines)


def baselines(data: ReportData) -> list[Row]:
    """The baselines under FGSM, by network."""
    eps = max(data.epsilons)
    fgsm = {model: data.record(model, BASELINE, "whitebox", eps) for model in data.models}
    clean = {model: data.record(model, BASELINE, "clean") for model in data.models}
    if len(fgsm) < 2 or not all(fgsm.values()):
        return []
    return [(m, f"{r.n:,}", clean[m].interval_text, f"{eps:.4g}", r.interval_text) for m, r in fgsm.items()]


def largest_and_smallest(runs: Sequence[ReportData]) -> str:
    """Where the last network, the largest, is more or less accurate under FGSM than the first, by data set and eps."""
    lines = []
    for name, own in _by_experiment(runs).items():
        found = []
        for data in filter(baselines, own):
            first, *_, last = (data.record(model, BASELINE, "whitebox", max(data.epsilons)) for model in data.models)
            found.append(difference(last, first))
        if found:
            lines.append(f"- {name}: {' / '.join(map(str, found))}")
    if not lines:
        return ""
    text = (
        "Accuracy under FGSM at the largest eps of the baseline of the largest network minus that of the smallest, in "
        "points [95% interval], by data set and eps, one number for each run. FGSM alone does not tell which network "
        "resists stronger attacks."
    )
    return text + "\n\n" + "\n".join(lines)


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
        "Gain under a new FGSM attack on each network itself, and change of clean accuracy, in percentage points, with "
        "the ends of their 95% intervals",
        ("recipe", "networks", "eps", "n", "gain", "low", "high", "clean", "low", "high", "stated by the paper"),
        gains,
        against_control,
    ),
    Question(
        "Does the gain remain under stronger attacks?",
        "Accuracy in % under the strongest attack that was run, the gain under it in percentage points, and the gain "
        "under FGSM at the same eps, each with the ends of its 95% interval",
        (
            *("recipe", "network", "attack", "eps", "n", "accuracy", "low", "high", "gain", "low", "high"),
            *("FGSM gain", "low", "high", "n of FGSM"),
        ),
        remaining,
        gains_by_recipe,
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


def _under_strongest(
    data: ReportData,
) -> Iterable[tuple[str, str, str, Record, Difference | None, Difference | None]]:
    """(recipe, model, attack, record, gain, gain under FGSM at the same eps), strongest attack of each model.

    The gain under FGSM is that on the images of the attack where single images are known, else that on all.
    """
    for model in data.models:
        attack, robust = strongest(data, model)
        if attack == "FGSM" or BASELINE not in robust:
            continue
        for recipe, record in robust.items():
            fgsm = [data.record(model, name, "whitebox", record.eps) for name in (recipe, BASELINE)]
            if None not in fgsm:
                fgsm = (on_shared_images([*fgsm, record]) or fgsm)[:2]
            gains = (difference(record, robust[BASELINE]), difference(*fgsm)) if recipe != BASELINE else (None, None)
            yield recipe, model, attack, record, *gains


def _by_experiment(runs: Sequence[ReportData]) -> dict[str, list[ReportData]]:
    """The runs of each data set and eps: those of several seeds and sizes are not independent of each other."""
    groups: dict[str, list[ReportData]] = {}
    for data in runs:
        if data.epsilons:
            groups.setdefault(f"{data.dataset}, eps {', '.join(f'{eps:.4g}' for eps in data.epsilons)}", []).append(
                data
            )
    return groups


def _same_but_for_the_seed(runs: Sequence[ReportData]) -> list[list[ReportData]]:
    """Groups of two or more runs with the same flags for training, as far as both have them, and different seeds."""
    groups: list[tuple[dict[str, str], list[ReportData]]] = []
    for data in runs:
        lines = [line.lstrip("-").partition("=") for line in data.provenance.get("flags.txt", "").split("\n") if line]
        flags = {name: value for name, _, value in lines if name not in NOT_TRAINING}
        for known, own in groups:
            seeds = {each.records[0].seed for each in own}
            same = all(known[name] == flags[name] for name in known.keys() & flags.keys())
            if flags and same and data.records[0].seed not in seeds:
                own.append(data)
                break
        else:
            groups.append((flags, [data]))
    return [own for flags, own in groups if flags and len(own) > 1]


def _is_surrogate(data: ReportData, model: str) -> bool:
    """Whether the stored images were computed on this model."""
    return any(record.source.split("/")[0] == model for record in data.records if record.source)


def _other_models(runs: Sequence[ReportData]) -> list[str]:
    """The names of the networks that are not the surrogate of their run."""
    return list(dict.fromkeys(model for data in runs for model in data.models if not _is_surrogate(data, model)))


def _cells(found: Difference | None) -> tuple[str, str, str]:
    """Value and ends of the interval in points."""
    return tuple(f"{value:+.1f}" for value in found.points) if found else ("–", "–", "–")


def _runs(found: Sequence[object]) -> str:
    return "1 run." if len(found) == 1 else f"{len(found)} runs."


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _signed_range(values: Sequence[float]) -> str:
    low, high = (f"{value:+.1f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
