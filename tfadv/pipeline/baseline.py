"""The results of an earlier run, which `--require` compares with: `read_baseline`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import pathlib

import numpy as np

from tfadv import gate
from tfadv.errors import UserError
from tfadv.evaluation.records import WORST_CASE, Record
from tfadv.evaluation.result import Result
from tfadv.pipeline.results import load_result
from tfadv.pipeline.run import Run
from tfadv.pipeline.steps import WHITEBOX
from tfadv.specs import folder_name
from tfadv.store.workdir import Workdir

LOG = logging.getLogger(__name__)


def read_baseline(run: Run) -> list[Record]:
    """The records of `--baseline`; with the outcomes of single images where the test images are those of this run.

    Returns:
      The records that the requirements compare with; none where there is no `--baseline`.

    Raises:
      UserError: the file can't be read, is that of this run, or lacks what is compared; or nothing is compared.
    """
    path = pathlib.Path(os.path.expanduser(run.config.baseline))
    if not run.config.baseline:
        return []
    wanted = [each for each in gate.requirements(run.config.require) if each.relative]
    if not wanted:
        raise UserError(f"--baseline={path} is for --require, such as --require='accuracy>=baseline-0.02'.")
    if path.resolve() == (run.workdir.root / "results.json").resolve():
        raise UserError(f"--baseline={path} is what this run writes: give another --workdir, or a copy of its folder.")
    records = _read(path)
    earlier = Workdir(path.parent, follower=True)
    same = _same_images(run, earlier)
    found = []
    for requirement in wanted:
        of_this = gate.about(requirement, records)
        if not of_this:
            raise UserError(f"--baseline={path} has no result for {requirement.text}.")
        if not same and of_this[0].dataset != run.config.dataset:
            raise UserError(
                f"--baseline={path} is about {of_this[0].dataset}, and this run about {run.config.dataset}."
            )
        found += [dataclasses.replace(each, per_image=_outcomes(earlier, each) if same else None) for each in of_this]
    if any(each.per_image is None for each in found):
        LOG.warning("%s is not of a work folder with the same test images: its intervals are those of counts.", path)
    return found


def _read(path: pathlib.Path) -> list[Record]:
    try:
        return [Record.from_dict(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise UserError(f"--baseline={path} can't be read ({error.strerror or error}).")
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f"--baseline={path} is not the results.json of a work folder.")


def _same_images(run: Run, earlier: Workdir) -> bool:
    """Whether the test images of an earlier run are those of this one, in the same order."""
    with contextlib.suppress(UserError, OSError, ValueError, KeyError):  # there is no work folder, or it is damaged
        theirs = json.loads((earlier.open("split") / "splits.json").read_text())
        return all(theirs[key] == run.dataset.record[key] for key in ("images_sha256", "class_names", "test"))
    return False


def _outcomes(earlier: Workdir, record: Record) -> np.ndarray | None:
    """bool (N,), which images were classified correctly; None where the work folder does not have it."""
    with contextlib.suppress(UserError, OSError, ValueError, KeyError):
        labels = (record.settings or {})["attacks"] if record.attack == WORST_CASE else [record.attack_label]
        rows = [_of_attack(earlier, record, label) for label in labels]
        found = np.logical_and.reduce([row[: record.n] for row in rows])
        if (len(found), int(found.sum())) == (record.n, record.correct):  # else results.json is of other results
            return found
    return None


def _of_attack(earlier: Workdir, record: Record, label: str) -> np.ndarray:
    """bool (N,), correct on the clean images and under one attack."""
    folder = f"{folder_name(record.model)}/{folder_name(record.defense)}"
    # The FGSM of the tables, which the worst case contains as well, has no settings.
    of_tables = label in ("clean", "fgsm") and (record.attack == WORST_CASE or record.settings is None)
    if of_tables:
        result = load_result(earlier.open(f"evaluations/{folder}"), WHITEBOX)
        return result.clean_correct if record.attack is None else result.robust[_row(result, record.eps)]
    of_worst_case = record.attack == WORST_CASE
    names = [folder_name(label), *(() if of_worst_case else _with_own_sizes(earlier, folder, label))]
    for name in names:
        with contextlib.suppress(UserError, OSError, ValueError):  # it was not evaluated at this size
            result = load_result(earlier.open(f"attacks/{folder}/{name}"))
            row = result.robust[_row(result, record.eps)]
            if of_worst_case or (len(row), int(row.sum())) == (record.n, record.correct):
                return row
    raise KeyError(label)


def _with_own_sizes(earlier: Workdir, folder: str, label: str) -> list[str]:
    """The folders of an attack with sizes of its own, see `tfadv.pipeline.steps.evaluate_attack`."""
    names = [path.name for path in (earlier.root / "attacks" / folder).glob("[!.]*")]
    inputs = {name: (earlier.manifest(f"attacks/{folder}/{name}") or {}).get("inputs", {}) for name in names}
    return [name for name, made_from in inputs.items() if made_from.get("own_sizes") and made_from["attack"] == label]


def _row(result: Result, eps: float | None) -> int:
    """The row of an eps; None has one row."""
    sizes = result.eps if isinstance(result.eps, tuple) else (result.eps,)
    (row,) = [row for row, own in enumerate(sizes) if own == eps or (own and eps and math.isclose(own, eps))]
    return row
