"""What is required of a model: the text of `--require` as `Requirement`s."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from tfadv import specs
from tfadv.attacks import ATTACKS, WITHOUT_EPS, parse, split_specs
from tfadv.errors import UserError
from tfadv.evaluation.records import WORST_CASE, Record

CLEAN, WORST_CLASS, BASELINE = "accuracy", "worst_class", "baseline"


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The least accuracy.

    Attributes:
      text: as it was given.
      attack: its text, such as "pgd(steps=20)"; "worst" for the worst case over all attacks; "" for clean images.
      eps: the size of the perturbation; None for clean images.
      least: the accuracy, in [0, 1]; where `relative`, how much may be added to that of the baseline, in [-1, 1].
      of_worst_class: whether it is about the class with the least accuracy, not about all images.
      relative: whether the accuracy is compared with that of `--baseline`.
    """

    text: str
    attack: str
    eps: float | None
    least: float
    of_worst_class: bool = False
    relative: bool = False


def requirements(text: str) -> list[Requirement]:
    """Reads "accuracy>=0.9; worst_class(pgd)@8/255>=0.1; autoattack@8/255>=baseline-0.02"; "" has none.

    Loads no TensorFlow.

    Raises:
      UserError: the text has another form, or an attack is unknown.
    """
    found = [_requirement(part) for part in filter(None, (part.strip() for part in text.split(";")))]
    if text and not found:
        raise UserError(f"--require={text} has no requirement: write {CLEAN}>=0.9 or autoattack@8/255>=0.4.")
    return found


def _requirement(part: str) -> Requirement:
    match = re.fullmatch(r"(.+?)\s*(?:@\s*([^\s@>]+))?\s*>=\s*(\S.*)", part)
    of_class = re.fullmatch(rf"{WORST_CLASS}\((.+)\)", match[1]) if match else None
    name = of_class[1].strip() if of_class else match[1] if match else ""
    if not match or (name == CLEAN) != (match[2] is None):
        raise UserError(f"--require={part}: write {CLEAN}>=0.9 or autoattack@8/255>=0.4, separated by semicolons.")
    least, relative = _least(part, match[3])
    if of_class and relative:
        raise UserError(f"--require={part}: {WORST_CLASS} is compared with a number, not with the baseline.")
    if name not in (CLEAN, WORST_CASE) and len(split_specs(name)) != 1:
        raise UserError(f"--require={part}: name one attack, such as autoattack@8/255>=0.4.")
    eps = specs.number(match[2]) if match[2] else None
    return Requirement(part, "" if name == CLEAN else name, eps, least, of_class is not None, relative)


def _least(part: str, text: str) -> tuple[float, bool]:
    """(the number, whether it is added to the accuracy of the baseline)."""
    relative = re.fullmatch(rf"{BASELINE}\s*(?:([+-])\s*(\S+))?", text)
    if not relative:
        least = specs.number(text)
        if not 0 < least <= 1:
            raise UserError(f"--require={part}: an accuracy is above 0 and at most 1.")
        return least, False
    more = specs.number(relative[2]) if relative[2] else 0.0
    if not 0 <= more < 1:
        raise UserError(f"--require={part}: write {BASELINE}-0.02 for at most 2 points less than the baseline.")
    return -more if relative[1] == "-" else more, True


def check(wanted: Sequence[Requirement], epsilons: Sequence[float], attacks: str, baseline: str = "") -> None:
    """Checks that what is required will be measured.

    Args:
      wanted: the requirements.
      epsilons: of the run.
      attacks: the text of `--attacks`.
      baseline: the text of `--baseline`.

    Raises:
      UserError: an attack or an eps is not evaluated, or the baseline is missing.
    """
    known = [*specs.split_sized(attacks, ATTACKS), ("fgsm", {}, ())] if attacks else [("fgsm", {}, ())]
    in_linf = [name for name, own, sizes in known if own.get("norm", "linf") == "linf" and not sizes]
    several = sum(name not in WITHOUT_EPS for name in in_linf) > 1
    for each in wanted:
        if not each.attack:
            continue
        if each.attack == WORST_CASE:
            found: list[tuple[float, ...]] = [()] if several else []
        else:
            spec = split_specs(each.attack)[0]
            if spec[0] in WITHOUT_EPS:
                raise UserError(f"--require={each.text}: {each.attack} has no eps, and a requirement names one.")
            found = [sizes for *own, sizes in known if tuple(own) == spec]
        if not found and each.attack == WORST_CASE:
            raise UserError(f"--require={each.text}: no attack of --attacks is in L∞ at the sizes of --epsilons.")
        if not found:
            raise UserError(f"--require={each.text}: --attacks does not name {each.attack}.")
        measured = sorted({size for sizes in found for size in sizes or epsilons})
        if not any(math.isclose(each.eps or 0.0, eps) for eps in measured):
            listing = ",".join(f"{eps:g}" for eps in measured)
            raise UserError(f"--require={each.text}: {each.attack} is measured at eps {listing}, not at {each.eps:g}.")
    for each in wanted:
        if each.relative and not baseline:
            raise UserError(f"--require={each.text} needs --baseline, the results.json to compare with.")


def about(requirement: Requirement, records: Sequence[Record]) -> list[Record]:
    """Those records that have the accuracy which is required."""
    return [record for record in records if _is_about(requirement, record)]


def _is_about(requirement: Requirement, record: Record) -> bool:
    if not requirement.attack:
        return record.protocol == "clean"
    if requirement.attack == WORST_CASE and "fgsm" not in (record.settings or {}).get("attacks", ()):
        return False  # of an earlier version: in another norm
    same_eps = record.eps is not None and math.isclose(record.eps, requirement.eps or 0.0)
    return record.protocol == "whitebox" and is_under(requirement, record.attack_label) and same_eps


def is_under(requirement: Requirement, label: str) -> bool:
    """Whether a requirement about attacked images names the attack of this label, which may be the worst case."""
    own = requirement.attack if requirement.attack == WORST_CASE else parse(requirement.attack).label
    return own == label
