"""Differences between accuracies on the same images, with 95% intervals, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tfadv.evaluation.intervals import Difference, mean_difference_of_counts, mean_paired_difference
from tfadv.evaluation.records import Record, with_outcomes
from tfadv.report.data import ReportData
from tfadv.report.table import Cell, Table

Pair = tuple[Record | None, Record | None]


def mean_difference(pairs: Sequence[Pair]) -> Difference | None:
    """The mean over pairs of records of accuracy less accuracy, on the images that all of them have.

    Attacks take the first test images, so records of n and m images share the first min(n, m).

    Args:
      pairs: records of models of one data set; those without a partner are left out.

    Returns:
      The paired difference where the records know their images. From counts, only where all records are of equally
      many images, a conservative one. Otherwise None: accuracies on different images can't be compared,
      and where an attack ended early, its number of images depends on the result.
    """
    records = [record for pair in pairs if None not in pair for record in pair if record]
    if not records or any(record.of for record in records):
        return None
    n = min(record.n for record in records)
    arrays = [record.per_image[:n] for record in records if record.per_image is not None]
    if len(arrays) == len(records):
        return mean_paired_difference(np.stack(arrays[::2]), np.stack(arrays[1::2]))
    if any(record.n != n for record in records):
        return None
    counts = [record.correct for record in records]
    return mean_difference_of_counts(list(zip(counts[::2], counts[1::2])), n)


def difference(a: Record | None, b: Record | None) -> Difference | None:
    """The accuracy of a record less that of another; None as in `mean_difference`."""
    return mean_difference([(a, b)])


def mean_gain(
    data: ReportData, defense: str, protocol: str = "whitebox", models: Iterable[str] | None = None
) -> Difference | None:
    """How much more accurate a defense is than the first defense under FGSM, on average over models and eps.

    Args:
      data: the results.
      defense: name of the defense.
      protocol: "whitebox" or "transfer".
      models: names of the models; None means all.

    Returns:
      None where no model and eps has both accuracies.
    """
    first = data.first
    return mean_difference(
        [
            (data.record(model, defense, protocol, eps), data.record(model, first, protocol, eps))
            for model in (data.models if models is None else models)
            for eps in data.epsilons
        ]
    )


def on_shared_images(records: Sequence[Record]) -> list[Record] | None:
    """The records cut to the first images, which all of them have; None where single images are not known."""
    n = min((record.n for record in records), default=0)
    cut = []
    for record in records:
        if record.n > n:
            if record.per_image is None:
                return None
            record = with_outcomes(record, record.per_image[:n])
        cut.append(record)
    return cut


def differences_table(data: ReportData) -> Table | None:
    """How much more accurate defenses are than the first one, and under PGD than under AutoAttack; None without any."""
    found = [(cells, each) for cells, each in _differences(data) if each]
    if not found:
        return None
    title = "Differences in accuracy on the same n test images, percentage points, with the ends of the 95% interval"
    if not all(each.paired for _, each in found):
        title += " (from counts, as if the images were independent: wider than a paired interval)"
    head = ("model", "defense", "images", "eps", "less", "Δ", "low", "high", "n")
    return Table(title, head, [(*cells, *each.points, f"{each.n:,}") for cells, each in found])


def _differences(data: ReportData) -> Iterator[tuple[tuple[Cell, ...], Difference | None]]:
    """(model, defense, images, eps, what is subtracted), and the difference."""
    first = data.first
    mean = "mean" if len(data.epsilons) > 1 else "".join(f"{eps:g}" for eps in data.epsilons)
    for model, defense in dict.fromkeys((record.model, record.defense) for record in data.records):
        strong = _strong(data, model, defense)
        if defense != first:
            clean, before = (data.record(model, name, "clean") for name in (defense, first))
            yield (model, defense, "clean", None, first), difference(clean, before)
            yield (model, defense, "FGSM", mean, first), mean_gain(data, defense, models=[model])
            yield (model, defense, "stored", mean, first), mean_gain(data, defense, "transfer", [model])
            others = _strong(data, model, first)
            for attack, record in strong.items():
                yield (model, defense, attack, f"{record.eps:g}", first), difference(record, others.get(attack))
        for auto in (record for record in strong.values() if record.attack == "autoattack"):
            pgd = next((r for r in strong.values() if (r.attack, r.norm) == ("pgd", auto.norm)), None)
            if pgd:
                yield (model, defense, pgd.attack_label, f"{pgd.eps:g}", auto.attack_label), difference(pgd, auto)


def _strong(data: ReportData, model: str, defense: str) -> dict[str, Record]:
    """The records of a model under the attacks of `--attacks` at the largest eps of the run, by label."""
    own = [record for record in data.under_attacks if (record.model, record.defense) == (model, defense)]
    return {record.attack_label: record for record in own}
