"""The records of results.json: which model was attacked how, and how many images it still classified correctly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfadv.evaluation.sequential import anytime_interval

AUTOATTACK_PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
AUTOATTACK_NUMBERS = {"steps": 100, "restarts": 1, "targets": 9, "queries": 5000}  # defaults; here without TensorFlow
WORST_CASE = "worst"  # the `attack` of records that count the images no attack changed
_EARLY = {"precision": 0.05, "error": 0.025}  # of intervals of the first images, see `Record.of`


@dataclasses.dataclass(frozen=True)
class ModelId:
    """The model that records are about.

    Attributes:
      dataset: name of the data set.
      model: name of the architecture.
      defense: what trained it, with the settings that are not its defaults, such as "nfgsm(share=0.5)".
      seed: the seed of the run.
    """

    dataset: str
    model: str
    defense: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Record:
    """One accuracy with all that it depends on: an entry of results.json.

    Attributes:
      dataset: name of the data set.
      model: name of the architecture.
      defense: what trained it, such as "baseline" or "nfgsm(share=0.5)".
      protocol: "clean"; "whitebox", attacked on this model itself; or "transfer", attacked on `source`.
      source: "model/defense" whose stored adversarial images were used, or None.
      attack: name in `tfadv.attacks.ATTACKS`, "worst" for the worst case per image over several, None for clean.
      eps: size of the perturbation in units of a [0, 1] pixel; None for clean images, and for attacks that have no eps.
      accuracy: correct / n.  An image that is misclassified without an attack counts as misclassified, but for
        corruptions, where the corrupted image alone counts.
      interval: 95% Wilson interval of the accuracy, (low, high), rounded to 6 digits; where there is an `of`, the 97.5%
        interval of `tfadv.evaluation.sequential`.
      correct: number of images classified correctly.
      n: number of images.
      settings: the attack's settings; None for clean images and for the FGSM of the tables.
      cost: for all eps together: "gradients", "forwards" (numbers of images passed through the model), "seconds",
        "fallbacks", "remaining" (see `tfadv.attacks.cost.Cost`), "gradients_per_image", "forwards_per_image".
      seed: the seed of the run.
      label: the attack with those settings that are not its defaults, such as "pgd(steps=50)"; "" where all are
        defaults.  results.json leaves it out then.
      median_distance: of an attack that looks for the nearest adversarial image, the median of the distances, in the
        attack's norm; inf where it fails on half of the images, null in results.json.  None for other attacks;
        results.json leaves it out then.
      median_interval: its 95% interval, (low, high), in the same form.
      of: where the attack ended early, because `--require` was decided, the number of images that it was for; None for
        others; results.json leaves it out then.
      distances: float64 (n,), see `tfadv.evaluation.result.Result`; not in results.json.
    """

    dataset: str
    model: str
    defense: str
    protocol: str
    source: str | None
    attack: str | None
    eps: float | None
    accuracy: float
    interval: tuple[float, float]
    correct: int
    n: int
    settings: dict[str, Any] | None
    cost: dict[str, Any] | None
    seed: int
    label: str = ""
    median_distance: float | None = None
    median_interval: tuple[float, float] | None = None
    of: int | None = None
    distances: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    per_image: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def attack_label(self) -> str:
        """The attack for tables: its name, with those settings that are not its defaults."""
        return self.label or self.attack or "clean"

    @property
    def median_text(self) -> str | None:
        """The median distance with its interval and its norm, such as "0.0123 [0.0101, 0.0145] linf"."""
        if self.median_distance is None or self.median_interval is None:
            return None
        low, high = self.median_interval
        return f"{self.median_distance:.3g} [{low:.3g}, {high:.3g}] {self.norm}"

    @property
    def norm(self) -> str:
        """The norm of eps and of the distances."""
        return (self.settings or {}).get("norm", "linf")

    @property
    def interval_text(self) -> str:
        """The accuracy and its interval in percent, such as "12.3 [10.0, 15.0]"."""
        low, high = self.interval
        return f"{100 * self.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, in the order of results.json."""
        entry = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        entry["interval"] = list(self.interval)
        del entry["per_image"], entry["distances"]
        if not self.label:
            del entry["label"]
        if self.of is None:
            del entry["of"]
        if self.median_distance is None or self.median_interval is None:
            del entry["median_distance"], entry["median_interval"]
        else:
            values = (self.median_distance, *self.median_interval)  # JSON has no infinity
            entry["median_distance"], *entry["median_interval"] = (v if math.isfinite(v) else None for v in values)
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Record:
        """The record that `to_dict` turned into `entry`; raises TypeError where keys are missing or unknown."""
        values = dict(entry)
        if "interval" in values:
            values["interval"] = tuple(values["interval"])
        if "median_distance" in values:
            median = (values["median_distance"], *values["median_interval"])
            values["median_distance"], *interval = (math.inf if v is None else v for v in median)
            values["median_interval"] = tuple(interval)
        return cls(**values)


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Unlike ± 1.96 standard errors it stays within [0, 1] and has a width where all or none are correct.

    Args:
      correct: number of successes, 0 to n.
      n: number of trials, at least 1.
      confidence: the probability that the interval contains the true proportion, in (0, 1).

    Returns:
      (low, high) in [0, 1].

    Raises:
      ValueError: `correct` or `n` is not a whole number in its range.
    """
    from scipy.stats import binomtest  # 0.6 s to import, which flags and reports need not wait for

    if not 0 <= correct <= n or n < 1 or correct != int(correct) or n != int(n):
        raise ValueError(f"correct and n must be whole numbers with 0 <= correct <= n and n >= 1, got {correct}, {n}.")
    interval = binomtest(int(correct), int(n)).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def median(values: np.ndarray) -> float:
    """The lower median of float (N,), some of which may be inf."""
    return float(np.quantile(values, 0.5, method="inverted_cdf"))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval (low, high) of a median, between two order statistics: at least 95% whatever the distribution.

    Args:
      values: float (N,), at least one; some may be inf.

    Returns:
      The smallest and the largest value where N is too small for 95%.
    """
    from scipy.stats import binom  # 0.6 s to import

    n, ordered = len(values), np.sort(values)
    skipped = max(0, int(binom.ppf(0.025, n, 0.5)) - 1)  # so many values on each side are outside of the interval
    return float(ordered[skipped]), float(ordered[n - 1 - skipped])


def is_full_autoattack(attack: str | None, settings: Mapping[str, Any] | None) -> bool:
    """Whether an attack, by its name and settings, is AutoAttack with all parts and at least its default settings."""
    settings = settings or {}
    if attack != "autoattack" or settings.get("precision", "float32") != "float32":
        return False
    as_strong = all(settings.get(name, least) >= least for name, least in AUTOATTACK_NUMBERS.items())
    return as_strong and set(settings.get("attacks", AUTOATTACK_PARTS)) >= set(AUTOATTACK_PARTS)


def fgsm_records(
    model: ModelId,
    epsilons: Sequence[float],
    clean: np.ndarray,
    whitebox: np.ndarray,
    transfer: np.ndarray | None = None,
    source: str | None = None,
) -> list[Record]:
    """The records of an evaluation on clean images and under FGSM.

    Args:
      model: the model evaluated.
      epsilons: E sizes of the perturbation.
      clean: bool (N,), images classified correctly without an attack.
      whitebox: bool (E, N), also under FGSM on this model.
      transfer: bool (E, N), also with the stored perturbations of `source`; None where there are none.
      source: "model/defense" that `transfer` was attacked on.

    Returns:
      Clean, then white-box at each eps, then transfer at each eps.
    """
    records = [_record(model, clean, protocol="clean")]
    for eps, correct in zip(epsilons, whitebox, strict=True):
        records.append(_record(model, correct, protocol="whitebox", attack="fgsm", eps=eps))
    if transfer is not None:
        for eps, correct in zip(epsilons, transfer, strict=True):
            records.append(_record(model, correct, protocol="transfer", attack="fgsm", eps=eps, source=source))
    return records


def attack_records(
    model: ModelId,
    epsilons: Sequence[float | None],
    correct: np.ndarray,
    attack: str,
    settings: Mapping[str, Any],
    cost: Mapping[str, Any],
    label: str = "",
    distances: np.ndarray | None = None,
) -> list[Record]:
    """The records of one attack of `--attacks`, one for each eps.

    Args:
      model: the model evaluated.
      epsilons: E sizes of the perturbation, or None alone for an attack without eps.
      correct: bool (E, N), images classified correctly both without and under the attack.
      attack: its name in `tfadv.attacks.ATTACKS`.
      settings: its settings, JSON values.
      cost: "gradients", "forwards", "seconds", "fallbacks" and "remaining", for all eps together.
      label: its `label`, such as "pgd(steps=50)"; it is stored where it differs from the name.
      distances: float64 (N,), those of the nearest adversarial images; None where the attack does not look for them.
    """
    per_image = {f"{key}_per_image": round(cost[key] / correct.shape[1], 2) for key in ("gradients", "forwards")}
    common: dict[str, Any] = {
        "protocol": "whitebox",
        "attack": attack,
        "settings": dict(settings),
        "cost": {**cost, **per_image},
        "label": "" if label == attack else label,
    }
    if distances is not None:
        common |= {"median_distance": median(distances), "median_interval": median_interval(distances)}
        common |= {"distances": distances}
    return [_record(model, row, eps=eps, **common) for eps, row in zip(epsilons, correct, strict=True)]


def set_records(
    model: ModelId, sets: Sequence[tuple[str, int]], correct: np.ndarray, attack: str, constants: str
) -> list[Record]:
    """The records of sets of corrupted images, one for each set.

    Args:
      model: the model evaluated.
      sets: E pairs (corruption, severity).
      correct: bool (E, N), images classified correctly where they are corrupted.
      attack: its name in `tfadv.attacks.ATTACKS`, such as "corruptions".
      constants: whose constants the images were made with, such as "CIFAR-C".
    """
    records = []
    for (name, severity), row in zip(sets, correct, strict=True):
        settings = {"corruption": name, "severity": severity, "constants": constants}
        common = {"attack": attack, "settings": settings, "label": f"{name}(severity={severity})"}
        records.append(_record(model, row, protocol="whitebox", **common))
    return records


def worst_case_records(
    model: ModelId, epsilons: Sequence[float], correct: np.ndarray, labels: Sequence[str]
) -> list[Record]:
    """The records of the worst case per image over several attacks, one for each eps.

    Args:
      model: the model evaluated.
      epsilons: E sizes of the perturbation.
      correct: bool (E, N), images classified correctly under every attack.
      labels: the attacks' labels.
    """
    settings = {"attacks": list(labels)}
    return [
        _record(model, row, protocol="whitebox", attack=WORST_CASE, eps=eps, settings=settings)
        for eps, row in zip(epsilons, correct, strict=True)
    ]


def with_outcomes(record: Record, correct: np.ndarray) -> Record:
    """The record with another accuracy, that of `correct`, bool (n,); distances would be of other images."""
    unknown: dict[str, Any] = {"median_distance": None, "median_interval": None, "distances": None}
    return of_first_images(dataclasses.replace(record, **unknown, **_accuracy(correct)), record.of)


def of_first_images(record: Record, of: int | None) -> Record:
    """The record with an interval that is valid although the results have ended the attack early; None: as it is."""
    if of is None:
        return record
    low, high = anytime_interval(record.correct, record.n, **_EARLY)
    return dataclasses.replace(record, of=of, interval=(round(float(low), 6), round(float(high), 6)))


def _record(model: ModelId, correct: np.ndarray, **values: Any) -> Record:
    """A record of bool (N,); what `values` leaves out is None."""
    defaults = {"source": None, "attack": None, "eps": None, "settings": None, "cost": None}
    return Record(**dataclasses.asdict(model), **{**defaults, **values}, **_accuracy(correct))


def _accuracy(correct: np.ndarray) -> dict[str, Any]:
    """The fields of a record that depend on which images are classified correctly, bool (N,)."""
    count, n = int(correct.sum()), len(correct)
    low, high = wilson_interval(count, n)
    return {
        "accuracy": count / n,
        "interval": (round(low, 6), round(high, 6)),
        "correct": count,
        "n": n,
        "per_image": correct,
    }
