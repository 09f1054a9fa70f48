"""Requirements on accuracies, such as "autoattack@8/255>=0.4", and whether results meet them.

Intervals decide, not the accuracies themselves.  An attack that is weaker than AutoAttack can show that a requirement
is not met, never that it is.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tfadv import specs
from tfadv.attacks import parse, split_specs
from tfadv.errors import UserError
from tfadv.evaluation.records import WORST_CASE, Record

if TYPE_CHECKING:
    from tfadv.attacks import Attack

CLEAN = "accuracy"
PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
_STRONG = "autoattack"
_Z = 1.96  # of the 95% interval
_MANY = 100_000  # images


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The least accuracy.

    Attributes:
      text: as it was given.
      attack: its text, such as "pgd(steps=20)"; "worst" for the worst case over all attacks; "" for clean images.
      eps: the size of the perturbation; None for clean images.
      least: the accuracy, in [0, 1].
    """

    text: str
    attack: str
    eps: float | None
    least: float


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a model meets a requirement: `PASSED`, `FAILED` or `UNDECIDED`, and why in one sentence."""

    model: str
    requirement: Requirement
    verdict: str
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.model}, {self.requirement.text}: {self.reason}"


def requirements(text: str) -> list[Requirement]:
    """Reads "accuracy>=0.9; autoattack@8/255>=0.4"; "" has none.  Loads no TensorFlow.

    Raises:
      UserError: the text has another form, or an attack is unknown.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = re.fullmatch(r"(.+?)\s*(?:@\s*([^\s@>]+))?\s*>=\s*(\S+)", part)
        if not match or (match[1] == CLEAN) != (match[2] is None):
            raise UserError(f"--require={part}: write {CLEAN}>=0.9 or autoattack@8/255>=0.4, separated by semicolons.")
        name, least = match[1], specs.number(match[3])
        eps = specs.number(match[2]) if match[2] else None
        if not 0 < least <= 1:
            raise UserError(f"--require={part}: an accuracy is above 0 and at most 1.")
        if name not in (CLEAN, WORST_CASE):
            if len(split_specs(name)) != 1:
                raise UserError(f"--require={part}: name one attack, such as autoattack@8/255>=0.4.")
        found.append(Requirement(part, "" if name == CLEAN else name, eps, least))
    if text and not found:
        raise UserError(f"--require={text} has no requirement: write {CLEAN}>=0.9 or autoattack@8/255>=0.4.")
    return found


def check(wanted: Sequence[Requirement], epsilons: Sequence[float], attacks: str) -> None:
    """Raises UserError where an attack or an eps is not evaluated; `attacks`: the text of `--attacks`."""
    known = [*split_specs(attacks), ("fgsm", {})] if attacks else [("fgsm", {})]
    for each in wanted:
        if each.eps is not None and not any(math.isclose(each.eps, eps) for eps in epsilons):
            raise UserError(f"--require={each.text}: --epsilons={','.join(map(str, epsilons))} has no {each.eps:g}.")
        worst = each.attack == WORST_CASE and attacks
        if each.attack and not worst and (each.attack == WORST_CASE or split_specs(each.attack)[0] not in known):
            raise UserError(f"--require={each.text}: --attacks does not name {each.attack}.")


def decide(requirement: Requirement, model: str, records: Sequence[Record], suspicious: int = 0) -> Decision:
    """Whether a model meets a requirement.

    Args:
      requirement: what is required.
      model: its name, for people.
      records: its results.
      suspicious: how many checks for gradient masking and results without a gradient are; where any is, no attack
        shows that a requirement is met.

    Returns:
      The decision.
    """
    found = [r for r in records if _is_about(requirement, r)]
    if not found:
        several = requirement.attack == WORST_CASE
        reason = "the attacks were measured on different numbers of images" if several else "it was not measured"
        return Decision(model, requirement, UNDECIDED, reason)
    record = min(found, key=lambda each: each.accuracy)
    (low, high), n = record.interval, record.n
    measured = f"{record.accuracy:.1%} of {n:,} images ({low:.1%} to {high:.1%})"
    if high < requirement.least:
        return Decision(model, requirement, FAILED, measured)
    if low < requirement.least:
        return Decision(model, requirement, UNDECIDED, f"{measured}; {_images_needed(record, requirement.least)}")
    if not _is_strong(record):
        return Decision(model, requirement, UNDECIDED, f"{measured}, but AutoAttack with its defaults may find more")
    if record.attack and suspicious:
        reason = f"{measured}, but {suspicious} checks for gradient masking are suspicious"
        return Decision(model, requirement, UNDECIDED, reason)
    return Decision(model, requirement, PASSED, measured)


def _is_about(requirement: Requirement, record: Record) -> bool:
    if not requirement.attack:
        return record.protocol == "clean"
    label = requirement.attack if requirement.attack == WORST_CASE else parse(requirement.attack).label
    same_eps = record.eps is not None and math.isclose(record.eps, requirement.eps or 0.0)
    return record.protocol == "whitebox" and record.attack_label == label and same_eps


def _is_strong(record: Record) -> bool:
    """Whether it is about clean images, or about AutoAttack with all of its parts and at least its defaults."""
    if record.attack is None:
        return True
    labels = (record.settings or {}).get("attacks", ()) if record.attack == WORST_CASE else [record.attack_label]
    return any(_is_full_autoattack(parse(label)) for label in labels)


def _is_full_autoattack(attack: Attack) -> bool:
    own, least = attack.settings(), parse(_STRONG).settings()
    if attack.name != _STRONG or own["precision"] != least["precision"]:
        return False
    numbers = [name for name, value in least.items() if isinstance(value, int)]
    return set(own["attacks"]) >= set(least["attacks"]) and all(own[name] >= least[name] for name in numbers)


def _images_needed(record: Record, least: float) -> str:
    """How many images would decide if the accuracy stayed as it is."""
    p = record.accuracy
    if p == least:
        return "more images may decide"
    needed = math.ceil(_Z**2 * max(p * (1 - p), 1 / record.n) / (p - least) ** 2)
    if needed > _MANY:
        return f"more than {_MANY:,} images would decide if the accuracy stayed so"
    return f"about {max(needed, record.n + 1):,} images would decide if the accuracy stayed so"


def exit_code(decisions: Sequence[Decision]) -> int:
    """0: all are passed; 1: one is failed; 2: one is undecided."""
    verdicts = {decision.verdict for decision in decisions}
    return 1 if FAILED in verdicts else 2 if UNDECIDED in verdicts else 0


def markdown(decisions: Sequence[Decision]) -> str:
    """A table."""
    rows = [f"| {d.verdict} | {d.model} | `{d.requirement.text}` | {d.reason} |" for d in decisions]
    return "\n".join(["| verdict | model | requirement | measured |", "| --- | --- | --- | --- |", *rows]) + "\n"


def junit(decisions: Sequence[Decision]) -> str:
    """JUnit's XML: what is failed is a failure, what is undecided an error."""
    counts = {verdict: sum(d.verdict == verdict for d in decisions) for verdict in (FAILED, UNDECIDED)}
    attributes = {"failures": str(counts[FAILED]), "errors": str(counts[UNDECIDED]), "tests": str(len(decisions))}
    suite = ElementTree.Element("testsuite", {"name": "tfadv", **attributes})
    for decision in decisions:
        case = ElementTree.SubElement(suite, "testcase", classname=decision.model, name=decision.requirement.text)
        if decision.verdict != PASSED:
            kind = "failure" if decision.verdict == FAILED else "error"
            ElementTree.SubElement(case, kind, message=decision.reason)
        else:
            ElementTree.SubElement(case, "system-out").text = decision.reason
    return ElementTree.tostring(suite, encoding="unicode") + "\n"
