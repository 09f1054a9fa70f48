"""What was tested, how, on what and what was not: evidence.json, and the appendix of the page.

It is what a technical documentation asks for about robustness: the threat model in words, attacks with their settings
and seeds, versions, hashes, intervals, the accuracies of each class, signs of masked gradients, and what was left out.
It does not judge: there is no score, and a person signs.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfadv.evaluation.checks import Check
from tfadv.evaluation.records import WORST_CASE, Record, is_full_autoattack, wilson_interval
from tfadv.report.data import NORMS, ReportData
from tfadv.report.table import Cell, Table

OUTPUTS_ONLY = {"square", "sparse-rs", "hopskipjump", "rays", "spatial"}
STATES = {True: "passed", False: "suspicious", None: "not evaluated"}
MOST_CLASSES = 20  # in a table of the page
COUNTING = "An image that is misclassified as it is counts as misclassified under attack. Corrupted images count alone."
CLASSES = "Each class has an interval of its own: with many classes, some interval misses the true accuracy."
NEVER_TESTED = (
    "changes in the physical world, such as prints, stickers and lighting",
    "poisoned training images and backdoors",
    "extraction of the model or of training images, and membership inference",
    "other images than these test images: drift, other cameras, images of none of the classes",
)


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes evidence.json."""
    text = json.dumps(evidence(data), indent=1, ensure_ascii=False)
    (folder / "evidence.json").write_text(text + "\n", encoding="utf-8")


def evidence(data: ReportData) -> dict[str, Any]:
    """What evidence.json holds, as JSON values."""
    origin, provenance = data.origin, dict(data.provenance)
    about_data: dict[str, Any] = {
        "dataset": data.dataset,
        "classes": list(data.class_names),
        "counting": f"{COUNTING} {CLASSES}",
    }
    if origin:
        about_data |= {"test_images": origin.chosen, "sha256": dict(origin.hashes)}
    names = dict.fromkeys(f"{record.model}/{record.defense}" for record in data.records)
    return {
        "what": f"Evidence of an evaluation of robustness on {data.dataset}",
        "date": provenance.pop("date", ""),
        "name": "",
        "signature": "",
        "threat_model": threat_model(data),
        "not_tested": not_tested(data),
        "data": about_data,
        "attacks": _attacks(data),
        "models": {name: _model(data, name) for name in names},
        "versions": dict(origin.versions) if origin else {},
        "computation": {key: text for key, text in provenance.items() if key != "versions"},
    }


def threat_model(data: ReportData) -> list[str]:
    """What the attacker wants, may change and knows, one sentence each."""
    lines = ["The attacker wants the model to answer any class but the true one."]
    sizes = _sizes(data)
    if "linf" in sizes:
        listing = ", ".join(f"{eps:.4g} ({255 * eps:.3g} of 255 grey levels)" for eps in sizes["linf"])
        lines.append(f"Each pixel may change by at most eps = {listing}; pixels are in [0, 1].")
    if "l2" in sizes:
        listing = ", ".join(f"{eps:.4g}" for eps in sizes["l2"])
        lines.append(f"In L2, the Euclidean norm of the change is at most eps = {listing}; pixels are in [0, 1].")
    lines += [
        f"The {NORMS[norm]} norm of the change is at most eps = {', '.join(f'{eps:.4g}' for eps in sizes[norm])}."
        for norm in ("l1", "l0", "pixels")
        if norm in sizes
    ]
    if _corruptions(data):
        lines.append(f"Without an attacker, images are corrupted by {', '.join(_corruptions(data))}.")
    if any(record.attack == "spatial" for record in data.records):
        lines.append("Images are rotated and shifted, as the settings of spatial say.")
    if any(record.attack == "patch" for record in data.records):
        lines.append("A square of each image, wherever it does most harm, is replaced, as the settings of patch say.")
    blind = data.origin.access if data.origin else {}
    seen = {f"{record.model}/{record.defense}" for record in data.records if record.protocol == "whitebox"}
    if seen - set(blind):
        lines.append("White-box: the attacker knows the model with its weights and follows its gradient.")
    lines += blind.values()
    if any(record.protocol == "transfer" for record in data.records):
        lines.append("Transfer: images that were attacked on another model.")
    return lines


def not_tested(data: ReportData) -> list[str]:
    """What the results say nothing about."""
    sizes, attacks = _sizes(data), {record.attack for record in data.records if record.attack}
    lines = [f"perturbations limited in the {NORMS[norm]} norm" for norm in NORMS if norm not in sizes]
    lines += [f"perturbations larger than {max(own):.4g} in {NORMS[norm]}" for norm, own in sizes.items()]
    full = {record.norm for record in data.records if is_full_autoattack(record.attack, record.settings)}
    missing = [NORMS[norm] for norm in ("linf", "l2", "l1") if norm in sizes and norm not in full]
    if missing:
        where = f" in {' and '.join(missing)}" if full or len(missing) > 1 else ""
        lines.append(f"AutoAttack with its default settings{where}, which may lower the accuracies under attack")
    if not (attacks & OUTPUTS_ONLY or full):  # AutoAttack contains square
        lines.append("attacks that see the outputs only: square, hopskipjump, rays")
    common = "common corruptions such as noise, blur, weather and compression"
    lines.append("other common corruptions" if _corruptions(data) else common)
    if "spatial" not in attacks:
        lines.append("rotations and translations")
    if "patch" not in attacks:
        lines.append("patches that cover a part of the image")
    if not data.checks:
        lines.append("signs of masked gradients")
    if not (data.origin and data.origin.access):
        lines.append("the model as it is deployed: converted, quantized or behind a service")
    if not (data.origin and data.origin.rounding):
        lines.append("adversarial images rounded to 8 bits")
    if len({record.seed for record in data.records}) == 1:
        lines.append("other seeds of training and attacks")
    return [*lines, *NEVER_TESTED]


def class_tables(data: ReportData) -> Iterator[Table]:
    """For each model, the accuracy of each class in the worst case, or under the one attack; the worst class first."""
    if not data.origin:
        return
    for name in dict.fromkeys(f"{record.model}/{record.defense}" for record in data.records):
        of_model = [r for r in _of(data, name) if r.per_image is not None and not r.of]
        attacked = [r for r in of_model if r.protocol == "whitebox" and r.eps == max(data.epsilons)]
        clean = next((r for r in of_model if r.protocol == "clean"), None)
        if not attacked or not clean:
            continue
        worst = min(attacked, key=lambda record: (record.attack != WORST_CASE, record.accuracy))
        rows = _class_rows(data, clean, worst)
        title = f"{name}: accuracy of each class in %, clean and under {_words(worst)}, with its 95% interval"
        if len(rows) > MOST_CLASSES:
            title += f"; the {MOST_CLASSES} worst of {len(rows)} classes"
        yield Table(title, ("class", "n", "clean", "n attacked", "attacked"), rows[:MOST_CLASSES])


def _class_rows(data: ReportData, clean: Record, worst: Record) -> list[tuple[Cell, ...]]:
    before, after = _classes(data, clean), _classes(data, worst)
    found = [(a["correct"] / a["n"], c, a) for c, a in zip(before, after) if a["n"]]
    return [
        (a["class"], f"{c['n']:,}", _percent(c), f"{a['n']:,}", _percent(a))
        for _, c, a in sorted(found, key=lambda row: row[0])
    ]


def _percent(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{100 * row['correct'] / row['n']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _words(record: Record) -> str:
    attacks = ", ".join((record.settings or {}).get("attacks", ()))
    name = f"the worst case of {attacks}" if record.attack == WORST_CASE else record.attack_label
    return name if record.eps is None else f"{name} at eps {record.eps:.4g}"


def _sizes(data: ReportData) -> dict[str, list[float]]:
    """Norm → the sizes of perturbations."""
    found: dict[str, set[float]] = {}
    for record in data.records:
        if record.eps is not None and record.attack != WORST_CASE:
            found.setdefault((record.settings or {}).get("norm", "linf"), set()).add(record.eps)
    return {norm: sorted(found[norm]) for norm in NORMS if norm in found}


def _corruptions(data: ReportData) -> list[str]:
    """The names of the corruptions that were evaluated."""
    found = ((record.settings or {}).get("corruption") for record in data.records)
    return list(dict.fromkeys(name for name in found if name))


def _attacks(data: ReportData) -> list[dict[str, Any]]:
    """Each attack once, with its settings, seed, sizes and numbers of images; all sets of corruptions are one."""
    found: dict[str, dict[str, Any]] = {}
    for record in data.records:
        if record.protocol == "whitebox" and record.attack != WORST_CASE:
            label, settings = record.attack_label, record.settings or {}
            if "corruption" in settings:
                label, settings = record.attack or "", {"constants": settings["constants"]}
            entry = {"attack": label, "settings": settings, "seed": record.seed, "eps": [], "images": []}
            own = found.setdefault(label, entry)
            own["eps"] = sorted({*own["eps"], *([] if record.eps is None else [record.eps])})
            own["images"] = sorted({*own["images"], record.n})
    return list(found.values())


def _of(data: ReportData, name: str) -> list[Record]:
    return [record for record in data.records if f"{record.model}/{record.defense}" == name]


def _model(data: ReportData, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"sha256": dict(data.origin.models.get(name, {}))} if data.origin else {}
    found["results"] = [_result(data, record) for record in _of(data, name)]
    found["gradient_masking"] = [_check(check) for check in data.checks.get(name, ())]
    prefix = f"{name} under "
    found["upper_bounds"] = [each.removeprefix(prefix) for each in data.upper_bounds if each.startswith(prefix)]
    if data.origin:
        shares = {each.removeprefix(prefix): s for each, s in data.origin.rounding.items() if each.startswith(prefix)}
        found["share_that_fools_after_rounding_to_8_bits"] = shares
    return found


def _result(data: ReportData, record: Record) -> dict[str, Any]:
    keys = ("protocol", "source", "eps", "accuracy", "interval", "correct", "n", "seed")
    found: dict[str, Any] = {"attack": None if record.attack is None else record.attack_label}
    found |= {key: getattr(record, key) for key in keys}
    if record.of:
        found["ended_early"] = f"of {record.of:,} images, the first ones decided --require; the interval is of 97.5%"
    elif data.origin and record.per_image is not None and record.protocol != "transfer":
        found["classes"] = _classes(data, record)
    return found


def _classes(data: ReportData, record: Record) -> list[dict[str, Any]]:
    """The accuracy of each class; without an interval where it has no image."""
    assert data.origin is not None and record.per_image is not None
    labels, k = data.origin.labels[: record.n], len(data.class_names)
    counts, correct = (np.bincount(own, minlength=k).tolist() for own in (labels, labels[record.per_image]))
    return [
        {"class": name, "n": n, "correct": c, "interval": _interval(c, n)}
        for name, n, c in zip(data.class_names, counts, correct)
    ]


def _interval(correct: int, n: int) -> list[float] | None:
    return [round(end, 6) for end in wilson_interval(correct, n)] if n else None


def _check(check: Check) -> dict[str, Any]:
    figures = {key: value for key, value in check.figures.items() if math.isfinite(value)}
    return {"check": check.name, "answer": STATES[check.passed], "figures": figures, "sentence": check.sentence}
