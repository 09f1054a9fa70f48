"""Whether results meet a requirement: `decide`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np

from tfadv.attacks import parse
from tfadv.evaluation.intervals import Difference, difference_of_counts, paired_difference
from tfadv.evaluation.records import WORST_CASE, Record, is_full_autoattack, wilson_interval
from tfadv.gate.requirement import Requirement, about

PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"
_ERROR = 0.05  # the probability that an interval misses the true accuracy
_MANY = 100_000  # images


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a model meets a requirement: `PASSED`, `FAILED` or `UNDECIDED`, and why in one sentence."""

    model: str
    requirement: Requirement
    verdict: str
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.model}, {self.requirement.text}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What is compared with `Requirement.least`.

    Attributes:
      low, high: the ends of the 95% interval.
      n: number of images.
      text: the accuracies and the interval, for people.
      needed: how many images would decide if the accuracies stayed as they are; None where no number is known.
    """

    low: float
    high: float
    n: int
    text: str
    needed: float | None


class _Unknown(Exception):
    """There is nothing to compare; the message is a sentence for people."""


def decide(
    requirement: Requirement,
    model: str,
    records: Sequence[Record],
    suspicious: int = 0,
    *,
    classes: tuple[Sequence[str], np.ndarray] | None = None,
    baseline: Sequence[Record] = (),
) -> Decision:
    """Whether a model meets a requirement.

    Args:
      requirement: what is required.
      model: its name, for people.
      records: its results.
      suspicious: how many checks for gradient masking and results without a gradient are; where any is, no attack
        shows that a requirement is met.
      classes: (the names of the classes, the classes of the test images, int (N,)), for the worst class.
      baseline: the results to compare with, with outcomes of single images where these are the same.

    Returns:
      The decision.
    """
    found = about(requirement, records)
    if not found:
        several = requirement.attack == WORST_CASE
        reason = "no attacks in L∞ were measured on the same number of images" if several else "it was not measured"
        return Decision(model, requirement, UNDECIDED, reason)
    record = min(found, key=lambda each: each.accuracy)
    try:
        if requirement.relative:
            measured = _beside_baseline(requirement, record, baseline)
        elif requirement.of_worst_class:
            measured = _of_worst_class(requirement, record, classes)
        else:
            measured = _of_all_images(requirement, record)
    except _Unknown as unknown:
        return Decision(model, requirement, UNDECIDED, str(unknown))
    return Decision(model, requirement, *_verdict(requirement, record, measured, suspicious))


def is_decided(requirement: Requirement, records: Sequence[Record]) -> bool:
    """Whether the interval of a measured accuracy, that of all images under one attack, is beside what is required."""
    low, high = min(about(requirement, records), key=lambda each: each.accuracy).interval
    return high < requirement.least or low >= requirement.least


def _verdict(requirement: Requirement, record: Record, measured: _Measured, suspicious: int) -> tuple[str, str]:
    """(verdict, reason)."""
    text = measured.text
    if measured.high < requirement.least:
        return FAILED, text
    if measured.low < requirement.least:
        return UNDECIDED, f"{text}; {_enough(measured.needed, measured.n)}"
    if not _is_strong(record):
        return UNDECIDED, f"{text}, but AutoAttack with its defaults may find more"
    if record.attack and suspicious:
        return UNDECIDED, f"{text}, but {suspicious} checks for gradient masking are suspicious"
    return PASSED, text


def _of_all_images(requirement: Requirement, record: Record) -> _Measured:
    (low, high), n = record.interval, record.n
    images = f"the first {n:,} of {record.of:,} images, where it ended early" if record.of else f"{n:,} images"
    needed = _images_needed(record.correct, n, requirement.least)
    return _Measured(low, high, n, f"{record.accuracy:.1%} of {images} ({low:.1%} to {high:.1%})", needed)


def _of_worst_class(
    requirement: Requirement, record: Record, classes: tuple[Sequence[str], np.ndarray] | None
) -> _Measured:
    """Passed where the intervals of all classes are above, failed where that of one class is below.

    With K classes, each interval is one of 1 - 0.05 / K (Bonferroni), so that with 95% confidence none misses.

    Raises:
      _Unknown: a class has no image, or single images are not known.
    """
    if classes is None or record.per_image is None:
        raise _Unknown("which images were classified correctly is not known")
    names, labels = classes
    k, labels = len(names), labels[: record.n]
    counts = np.bincount(labels, minlength=k)
    if not counts.all():
        raise _Unknown(f"none of the {record.n:,} images is of class {names[int(np.argmin(counts))]}")
    correct = np.bincount(labels[record.per_image], minlength=k)
    ends = [wilson_interval(int(c), int(n), 1 - _ERROR / k) for c, n in zip(correct, counts)]
    low, high = np.min(ends, axis=0).tolist()
    which = int(np.argmin(ends, axis=0)[1 if high < requirement.least else 0])
    text = (
        f"class {names[which]}, {correct[which] / counts[which]:.1%} of {counts[which]:,} images "
        f"({ends[which][0]:.1%} to {ends[which][1]:.1%}, as the worst of {k} classes)"
    )
    undecided = [row for row, end in enumerate(ends) if end[0] < requirement.least]
    needed = _needed_of_classes(correct[undecided], counts[undecided], requirement.least, k)
    return _Measured(low, high, record.n, text, None if needed is None else needed * record.n)


def _needed_of_classes(correct: np.ndarray, counts: np.ndarray, least: float, k: int) -> float | None:
    """How many times as many images would decide; of k classes, those that are not above the requirement, int (U,)."""
    found = [(_images_needed(int(c), int(n), least, k) or math.inf) / n for c, n in zip(correct, counts)]
    failing = [times for c, n, times in zip(correct, counts, found) if c / n < least]
    # One class below the requirement is enough; otherwise the last class has to come to lie above it.
    times = min(failing) if failing else max(found, default=math.inf)
    return times if math.isfinite(times) else None


def _beside_baseline(requirement: Requirement, record: Record, baseline: Sequence[Record]) -> _Measured:
    """The accuracy less that of the baseline, image by image where both are of the same images.

    Raises:
      _Unknown: the baseline has no such accuracy.
    """
    old = _in_baseline(requirement, record, baseline)
    if old.of:
        raise _Unknown("in the baseline, the attack ended early: run it again without --require")
    if old.settings != record.settings:
        raise _Unknown("the baseline was attacked with other settings or by other attacks")
    found = _difference(record, old)
    value, low, high = found.points
    how = f"on the same {found.n:,} images" if found.paired else "as if all images were different"
    text = (
        f"{record.accuracy:.1%} of {record.n:,} images, {old.accuracy:.1%} of {old.n:,} in the baseline: "
        f"{value:+.1f} points ({low:+.1f} to {high:+.1f}, {how})"
    )
    distance = found.value - requirement.least
    half = found.value - found.low if distance > 0 else found.high - found.value
    needed = found.n * (half / distance) ** 2 if distance else None  # an interval shrinks with the root of n
    return _Measured(found.low, found.high, found.n, text, needed)


def _in_baseline(requirement: Requirement, record: Record, baseline: Sequence[Record]) -> Record:
    """The record of the same model, or of the only model."""
    found = about(requirement, baseline)
    same = [each for each in found if (each.model, each.defense) == (record.model, record.defense)] or found
    if not same:
        raise _Unknown("the baseline has no such accuracy")
    names = dict.fromkeys(f"{each.model}/{each.defense}" for each in same)
    if len(names) > 1:
        raise _Unknown(f"the baseline has {', '.join(names)}, and none is called {record.model}/{record.defense}")
    return min(same, key=lambda each: each.accuracy)


def _difference(record: Record, old: Record) -> Difference:
    if record.per_image is None or old.per_image is None:
        return difference_of_counts(record.correct, old.correct, record.n, old.n)
    n = min(record.n, old.n)  # attacks take the first images
    return paired_difference(record.per_image[:n], old.per_image[:n])


def _is_strong(record: Record) -> bool:
    """Whether it is about clean images, or about AutoAttack with all of its parts and at least its defaults."""
    if record.attack is None:
        return True
    labels = (record.settings or {}).get("attacks", ()) if record.attack == WORST_CASE else [record.attack_label]
    return any(is_full_autoattack(attack.name, attack.settings()) for attack in map(parse, labels))


def _images_needed(correct: int, n: int, least: float, intervals: int = 1) -> float | None:
    """How many images of the same accuracy have `least` outside of Wilson's interval; None: no number has.

    That is where |p - least| > z √(least (1 - least) / n).

    Args:
      correct: number of images classified correctly.
      n: number of images.
      least: the accuracy required.
      intervals: how many intervals share the probability of an error.
    """
    p, z = correct / n, statistics.NormalDist().inv_cdf(1 - _ERROR / intervals / 2)
    return None if p == least else z**2 * least * (1 - least) / (p - least) ** 2


def _enough(needed: float | None, n: int) -> str:
    """How many images would decide; `n`: how many there are."""
    if needed is None:
        return "more images may decide"
    if needed > _MANY:
        return f"more than {_MANY:,} images would decide if the accuracy stayed so"
    return f"about {max(math.ceil(needed), n + 1):,} images would decide if the accuracy stayed so"


def exit_code(decisions: Sequence[Decision]) -> int:
    """0: all are passed; 1: one is failed; 2: one is undecided."""
    verdicts = {decision.verdict for decision in decisions}
    return 1 if FAILED in verdicts else 2 if UNDECIDED in verdicts else 0
