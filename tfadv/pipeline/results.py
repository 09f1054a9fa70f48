"""`Result`s on the disk: `correct.npz` and `result.json` in the folder of an entry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfadv.evaluation.result import CostSummary, Result
from tfadv.store.files import digest, write_json

LOG = logging.getLogger(__name__)


def save_result(folder: pathlib.Path, result: Result, prefix: str = "") -> None:
    """Writes a result; `prefix` distinguishes several results in one folder."""
    arrays: dict[str, Any] = {"clean": result.clean_correct, "adversarial": result.adversarial_correct}
    optional = {"rounded": result.rounded_correct, "distances": result.distances}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    with open(folder / f"{prefix}correct.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    record = {
        "attack": result.attack,
        "settings": result.settings,
        "eps": result.eps,
        "sets": result.sets,
        "cost": dataclasses.asdict(result.cost),
        "gradients_checked": result.gradients_checked,
        "without_gradient": result.without_gradient,
    }
    write_json(folder / f"{prefix}result.json", record)


def content_hash(*results: Result) -> str:
    """The SHA-256 of what results say, whatever their computation cost."""
    sha = hashlib.sha256()
    for result in results:
        sha.update(digest([result.attack, result.settings, result.eps]).encode())
        sha.update(np.packbits(result.clean_correct).data)
        sha.update(np.packbits(result.adversarial_correct).data)
        sha.update(b"" if result.distances is None else result.distances.data)
    return sha.hexdigest()


def load_result(folder: pathlib.Path, prefix: str = "") -> Result:
    """Reads what `save_result` wrote."""
    record = json.loads((folder / f"{prefix}result.json").read_text())
    eps = tuple(record["eps"]) if isinstance(record["eps"], list) else record["eps"]
    with np.load(folder / f"{prefix}correct.npz") as arrays:
        return Result(
            attack=record["attack"],
            settings=record["settings"],
            eps=eps,
            clean_correct=arrays["clean"],
            adversarial_correct=arrays["adversarial"],
            cost=CostSummary(**record["cost"]),
            sets=tuple((name, severity) for name, severity in record.get("sets", ())),
            distances=arrays.get("distances"),
            gradients_checked=record["gradients_checked"],
            without_gradient=record["without_gradient"],
            rounded_correct=arrays.get("rounded"),
        )


def warn_of_upper_bound(name: str, result: Result) -> None:
    """Says where the attack could not move the images, because they have no gradient."""
    if result.upper_bound():
        LOG.warning("%s: %s", name, result.upper_bound())


def in_percent(rows: Iterable[np.ndarray]) -> str:
    """Accuracies for the terminal, such as "54.2 / 40.1%", from arrays bool (N,) of correctly classified images."""
    return " / ".join(f"{100 * row.mean():.1f}" for row in rows) + "%"
