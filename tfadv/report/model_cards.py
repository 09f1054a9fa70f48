"""A model card for each model, in Markdown.

What a card tells follows Mitchell et al. 2019 (https://arxiv.org/abs/1810.03993). The metadata at its top are those
of a Hugging Face model card, whose `model-index` lists each accuracy (JSON, which is valid YAML).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.report.data import NORMS, ReportData, dataset_name
from tfadv.report.table import Cell, Table
from tfadv.report.tables import checks_lines
from tfadv.specs import folder_name

USE = """The path starts in the folder of the run. A ResNet of tfadv takes pixels in [0, 1] and returns logits; a model
of your own takes and returns what your file did."""
GUESSING = """**On clean images, the model is hardly better than always answering one class. Its accuracy under attack
says nothing about robustness.**"""
EARLY = """Where an attack ended early, on the first of its images, which decided --require, the interval is of 97.5%
and holds whenever one stops."""
LIMITS = """## Limits

- The accuracies are those of the test images of this data set, under attacks at these eps, in the L∞ norm or in the
  norm that is named. They say nothing about larger or other changes of an image.
- The true robust accuracy may be lower: a stronger attack may find more adversarial images.
- The model always returns one of its classes, also for images of something else."""


def write(folder: pathlib.Path, data: ReportData) -> None:
    """Writes model_cards/<model>_<defense>.md for each model of the report."""
    cards = folder / "model_cards"
    cards.mkdir()
    for model in data.models:
        for defense in data.defenses:
            records = [record for record in data.records if (record.model, record.defense) == (model, defense)]
            records = [record for record in records if "corruption" not in (record.settings or {})]  # dozens of sets
            if records:
                path = cards / f"{folder_name(f'{model}_{defense}')}.md"
                path.write_text(card(data, model, defense, records), encoding="utf-8")


def card(data: ReportData, model: str, defense: str, records: list[Record]) -> str:
    """The model card of one model.

    Args:
      data: the results.
      model: name of the architecture.
      defense: name of the defense that trained it.
      records: the entries of results.json about it.

    Returns:
      Markdown.
    """
    dataset = dataset_name(data.dataset)
    title = f"{model}, {defense}, on {dataset}"
    path = f"models/{folder_name(model)}/{folder_name(defense)}/model.keras"
    blocks = [
        f"---\n{json.dumps(_metadata(dataset, title, records), indent=1, ensure_ascii=False)}\n---",
        f"# {title}",
        f"An image classifier with {len(data.class_names)} classes: {', '.join(data.class_names)}.",
        f'```python\nimport keras\n\nmodel = keras.models.load_model("{path}")\n```',
        USE,
        "## Training",
        _training(data, model, defense),
        "## Accuracy",
        _accuracies(records).markdown(),
        EARLY if any(record.of for record in records) else "",
        GUESSING if f"{model}/{defense}" in data.guessing else "",
        "An image that is misclassified without an attack counts as misclassified under it.",
        *_masking(data, f"{model}/{defense}"),
        LIMITS,
        "## How it was computed",
        *([f"    {data.provenance['command']}"] if "command" in data.provenance else []),
        _listing({key: text for key, text in data.provenance.items() if key not in ("command", "flags.txt")}),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _metadata(dataset: str, title: str, records: list[Record]) -> dict[str, Any]:
    metrics = [
        {"type": "accuracy", "name": f"accuracy, {_images(record)}", "value": round(100 * record.accuracy, 2)}
        for record in records
    ]
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": dataset},
        "metrics": metrics,
    }
    return {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "datasets": [dataset],
        "tags": ["adversarial-robustness", "tfadv"],
        "model-index": [{"name": title, "results": [results]}],
    }


def _training(data: ReportData, model: str, defense: str) -> str:
    summaries = {known.label: known.summary for known in data.known_defenses}
    training = data.training.get(f"{model}/{defense}")
    if training and not training.gradients:
        return "tfadv did not train this model. The weights are those that it came with."
    entries = {"defense": summaries.get(defense, defense)}
    if training:
        entries["cost"] = (
            f"{training.gradients:,} forward and backward passes of single images, "
            f"{training.seconds / 60:.1f} minutes, for this defense alone"
        )
        epochs = max(map(len, training.history.values()), default=0)
        kept = f"of which epoch {training.best_epoch} was kept" if training.best_epoch else "none better than the start"
        entries["epochs"] = f"{epochs}, {kept}"
    if training and training.collapsed_epoch:
        entries["collapse"] = (
            f"training collapsed in epoch {training.collapsed_epoch} (catastrophic overfitting) and was continued from "
            "earlier weights with two attack steps"
        )
    return _listing(entries)


def _accuracies(records: list[Record]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (_images(record), record.interval_text, f"{record.n:,} of {record.of:,}" if record.of else f"{record.n:,}")
        for record in records
    ]
    return Table("Accuracy, % [95% interval]", ("images", "accuracy", "number of images"), rows)


def _images(record: Record) -> str:
    if record.attack is None:
        return "clean"
    source = f", attacked on {record.source}" if record.source else ""
    attacks = ", ".join((record.settings or {}).get("attacks", ()))
    attack = f"worst case per image of {attacks}" if record.attack == WORST_CASE else record.attack_label
    if record.eps is None:
        return f"{attack}{source}"
    return f"{attack}{source}, eps {record.eps:g}" + (f" in {NORMS[record.norm]}" if record.norm != "linf" else "")


def _masking(data: ReportData, name: str) -> list[str]:
    if name not in data.checks:
        return []
    lines = checks_lines(dataclasses.replace(data, checks={name: data.checks[name]}))
    return ["## Gradient masking", "\n".join(lines)]


def _listing(entries: dict[str, str]) -> str:
    return "\n".join(f"- {key}: {text}" for key, text in entries.items())
