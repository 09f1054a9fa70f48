"""The report as a Markdown page, report.md."""

from __future__ import annotations

import pathlib

from tfadv.evaluation.records import WORST_CASE
from tfadv.report.data import NORMS, ONE_STEP, ReportData, dataset_name
from tfadv.report.plots import pictures
from tfadv.report.summary import warnings
from tfadv.report.table import short
from tfadv.report.tables import checks_lines, report_headline, report_tables

INTERVALS = (
    "The intervals of differences compare the models image by image. They tell what other test images would change, "
    "not what another seed would."
)


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes report.md, and checks.md where there are checks for gradient masking."""
    tables = report_tables(data)
    checks = tables.pop("checks", None)
    blocks = [f"# {dataset_name(data.dataset)}", report_headline(data)]
    blocks += [f"**{warning}**" for warning in warnings(data)]
    if data.suspicious:
        blocks.append(f"**Gradient masking is suspected**, see below: {', '.join(data.suspicious)}.")
    blocks += ["## Tables", legend(data), *(table.markdown() for table in tables.values())]
    if checks:
        lines = "\n".join(checks_lines(data))
        blocks += ["## Gradient masking", lines, "All checks with explanations: [checks.md](checks.md)."]
        (folder / "checks.md").write_text(short(checks.markdown()) + "\n", encoding="utf-8")
    blocks += ["## Pictures", *(f"![{p.title}]({p.file})\n\n{p.caption}" for p in pictures(data))]
    (folder / "report.md").write_text(short("\n\n".join(blocks)) + "\n", encoding="utf-8")


def legend(data: ReportData) -> str:
    """A Markdown list that explains the words of the tables."""
    return "\n".join(f"- **{word}**: {text}" if word else f"- {text}" for word, text in legend_entries(data))


def legend_entries(data: ReportData) -> list[tuple[str, str]]:
    """(word of the tables, sentence that explains it); the word is "" where the sentence explains none."""
    defenses = {defense.label: defense for defense in data.known_defenses}
    entries = [(name, f"{defenses[name].summary}.") for name in data.defenses if name in defenses]
    entries.append(("Clean", "test images as they are."))
    entries.append(
        ("FGSM", "an attack of one step along the gradient, fast and weak: a stronger one may leave much less.")
    )
    entries.append(("White-box", "attacked on the evaluated model itself."))
    if any(record.protocol == "transfer" for record in data.records):
        entries.append(("Transfer", "adversarial images that were made for another model, the surrogate, and stored."))
    attacks = dict.fromkeys(record.attack_label for record in data.under_attacks if record.attack not in ONE_STEP)
    if attacks:
        text = "attacks of many steps, as a rule stronger than FGSM; their settings are in brackets."
        entries.append((", ".join(attacks), text))
    if any(record.attack == WORST_CASE for record in data.records):
        entries.append(("Worst case", "an image counts as correct only if no attack fools the model on it."))
    levels = "".join(f"; {eps:g} is {255 * eps:.3g} of 255 grey levels" for eps in data.epsilons[-1:])
    entries.append(("eps", f"the largest change of a pixel, whose range is [0, 1]{levels}."))
    norms = dict.fromkeys(NORMS[record.norm] for record in data.records if record.norm != "linf")
    if norms:
        entries.append((", ".join(norms), "eps limits the change of the whole image, not of each pixel."))
    entries.append(("", "An image that is misclassified without an attack counts as misclassified under it."))
    if len(data.defenses) > 1:
        entries.append(("", INTERVALS))
    published = data.published
    if published and published.covers(data.dataset):
        text = "this run minus the published figure, which is of other images: no interval can be given."
        entries.append(("Δ beside a published figure", text))
    return entries
