"""What an evaluation returns: `Result`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfadv.evaluation.intervals import mean_interval
from tfadv.evaluation.records import median, median_interval, wilson_interval
from tfadv.evaluation.sequential import Sample, anytime_interval, precise

_FEW, _FEW_SHARE = 3, 0.01  # robust images without a gradient that are not worth a warning


@dataclasses.dataclass(frozen=True)
class CostSummary:
    """The cost of an evaluation, without the forward passes that classify the adversarial images.

    Attributes:
      gradients: images that went forward and backward through the model.
      forwards: images that went forward only.
      seconds: wall time, compilation included; of the last process, where an evaluation was interrupted and resumed.
      fallbacks: loss → the loss that replaced it (`tfadv.attacks.losses.resolve_loss`).
      remaining: AutoAttack and `fast` only: attack → the images that were not adversarial after it, one number per eps;
        of `fast`, also the images that it gave up or drew as a sample.
    """

    gradients: int = 0
    forwards: int = 0
    seconds: float = 0.0
    fallbacks: dict[str, str] = dataclasses.field(default_factory=dict)
    remaining: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return dataclasses.asdict(self)

    def __add__(self, other: CostSummary) -> CostSummary:
        remaining = {name: np.add(n, other.remaining[name]).tolist() for name, n in self.remaining.items()}
        return CostSummary(
            self.gradients + other.gradients,
            self.forwards + other.forwards,
            self.seconds + other.seconds,
            self.fallbacks | other.fallbacks,
            remaining,
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """Which of N images a model classifies correctly, clean and under attack at E sizes of eps.

    Attributes:
      attack: the attack's name, or None where only clean images were classified.
      settings: the attack's settings, JSON values.
      eps: one number, or a tuple of E numbers, as passed to `evaluate`; None where eps did not limit the attack, or the
        attack has none.
      clean_correct: bool (N,), whether the clean image is classified correctly.
      adversarial_correct: bool (E, N), whether the adversarial image is classified correctly.
      cost: what the attack cost.
      sets: (corruption, severity) of each row of `adversarial_correct`, where each is a set of corrupted images; () for
        other attacks.
      distances: float64 (N,), where the attack looks for the nearest image and `eps` is None: how far the nearest
        adversarial image is that the attack has found, in its norm; 0 where the image itself is misclassified, inf
        where it has found none.
      adversarial: the adversarial images, float32 (E, N, H, W, C) where `eps` is a tuple or there are several sets,
        else (N, H, W, C); None without `evaluate(…, keep_images=True)`.
      gradients_checked: number of robust images of which it was checked whether the attack's loss has a gradient.
      without_gradient: number of those that have none: an attack that follows the gradient leaves them where they are,
        and the robust accuracy is an upper bound.
      rounded_correct: bool (E, N), whether the adversarial image is classified correctly after rounding to 8 bits,
        within eps; of models of `tfadv.deployed`, and with `keep_images`.  None where the images themselves have no
        whole grey levels, or the attack returns no images, as FGSM, which runs in one pass.
      sample: which of the images these N are, where `evaluate` drew them until intervals were narrow enough; None where
        they are all.  Image k of two results is the same one only where `sample.images` are equal.  To compare two
        models image by image, evaluate both on all images.
    """

    attack: str | None
    settings: dict[str, Any]
    eps: float | tuple[float, ...] | None
    clean_correct: np.ndarray
    adversarial_correct: np.ndarray
    cost: CostSummary = dataclasses.field(default_factory=CostSummary)
    adversarial: np.ndarray | None = dataclasses.field(default=None, repr=False)
    sets: tuple[tuple[str, int], ...] = ()
    distances: np.ndarray | None = dataclasses.field(default=None, repr=False)
    gradients_checked: int = 0
    without_gradient: int = 0
    rounded_correct: np.ndarray | None = None
    sample: Sample | None = dataclasses.field(default=None, repr=False)

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.clean_correct)

    @property
    def robust(self) -> np.ndarray:
        """bool (E, N): correct on the clean and on the adversarial image; an attacker may leave an image unchanged.

        Of sets of corrupted images: correct on the corrupted image.
        """
        return self.adversarial_correct if self.sets else self.clean_correct & self.adversarial_correct

    @property
    def clean_accuracy(self) -> float:
        """The share of clean images that are classified correctly."""
        return float(self.clean_correct.mean())

    @property
    def robust_accuracy(self) -> float | tuple[float, ...]:
        """The share of images that are robust: a tuple with one per eps where `eps` is a tuple, else one number.

        Of sets of corrupted images: the mean over the sets.
        """
        return float(self.robust.mean()) if self.sets else self._per_eps([float(row.mean()) for row in self.robust])

    @property
    def interval(self) -> Any:
        """The 95% interval (low, high) of the robust accuracy, or a tuple with one per eps: Wilson's.

        Of a `sample`: `anytime_interval`, also where all images were drawn in the end.
        Of several sets of corrupted images: that of a bootstrap over images, `mean_interval`.
        """
        return mean_interval(self.robust) if self.sets else self._per_eps(self._intervals())

    def _intervals(self) -> list[tuple[float, float]]:
        """The intervals of `interval`, one for each row of `robust`."""
        counts = [int(row.sum()) for row in self.robust]
        if self.sample is None:
            return [wilson_interval(count, self.n) for count in counts]
        found = (anytime_interval(count, self.n, self.sample.precision) for count in counts)
        return [(float(low), float(high)) for low, high in found]

    @property
    def median_distance(self) -> float:
        """The median of `distances`; inf where the attack fails on half of the images."""
        return median(self._known_distances())

    @property
    def median_interval(self) -> tuple[float, float]:
        """The 95% interval (low, high) of the median distance, from order statistics."""
        return median_interval(self._known_distances())

    def by_corruption(self) -> dict[str, float]:
        """The accuracy on each corruption, the mean over its severities; {} without sets."""
        return self._by([name for name, _ in self.sets])

    def by_severity(self) -> dict[int, float]:
        """The accuracy at each severity, the mean over corruptions; {} without sets."""
        return self._by([severity for _, severity in self.sets])

    def _by(self, keys: list) -> dict:
        """Key → the mean accuracy of the sets whose key it is."""
        accuracies = self.robust.mean(axis=1)
        return {key: float(np.mean([a for a, k in zip(accuracies, keys) if k == key])) for key in dict.fromkeys(keys)}

    def accuracy_at(self, eps: float) -> float:
        """The share of images whose nearest adversarial image is further away than eps; at 0, the clean accuracy.

        Raises:
          ValueError: `evaluate` was called with an eps.
        """
        return float((self._known_distances() > eps).mean())

    def at(self, sizes: Sequence[float]) -> Result:
        """The result at E sizes of eps, from the distances, which it keeps.

        Raises:
          ValueError: `evaluate` was called with an eps.
        """
        correct = self._known_distances() > np.asarray(sizes, float)[:, None]
        return dataclasses.replace(self, eps=tuple(sizes), adversarial_correct=correct, adversarial=None)

    def _known_distances(self) -> np.ndarray:
        if self.distances is None:
            raise ValueError(f"{self.attack} at eps {self.eps} has no distances: call evaluate(…, eps=None).")
        return self.distances

    @property
    def fooled_after_rounding(self) -> Any:
        """The share of adversarial images that still fool the model after rounding to 8 bits, as a file stores them.

        One number, or a tuple with one per eps; NaN where no image fools the model; None where it was not measured.
        """
        if self.rounded_correct is None:
            return None
        fooled = self.clean_correct & ~self.adversarial_correct
        still = fooled & ~self.rounded_correct
        return self._per_eps([float(s.sum() / f.sum()) if f.any() else math.nan for s, f in zip(still, fooled)])

    def first(self, n: int) -> Result:
        """The result of the first n images, without the adversarial images; the cost stays that of all.

        Raises:
          ValueError: the images are a sample, whose first ones are not a random one.
        """
        _refuse_samples([self])
        return dataclasses.replace(self, adversarial=None).take(np.arange(min(n, self.n)))

    def take(self, rows: np.ndarray) -> Result:
        """The result of these rows, int (M,), in this order; the cost stays that of all."""
        adversarial = self.adversarial
        if adversarial is not None:
            adversarial = adversarial.take(rows, axis=1 if self._has_levels else 0)
        return dataclasses.replace(
            self,
            clean_correct=self.clean_correct[rows],
            adversarial_correct=self.adversarial_correct[:, rows],
            adversarial=adversarial,
            distances=None if self.distances is None else self.distances[rows],
            rounded_correct=None if self.rounded_correct is None else self.rounded_correct[:, rows],
        )

    def summary(self) -> str:
        """A line for the clean accuracy, one per eps, and what else is to be known; of sets, their means."""
        lines = [f"clean: {self.clean_accuracy:.1%} of {self.n} images"]
        if self.sample is not None:
            lines.append(self.sample.summary(is_precise([self], self.sample.precision)))
        if self.sets:
            return "\n".join([*lines, *self._summary_of_sets()])
        norm = self.settings.get("norm", "linf")
        unit = {"linf": "", "pixels": " pixels"}.get(norm, f" in {norm.upper()}")
        if self.distances is not None:
            low, high = self.median_interval
            lines.append(
                f"{self.attack}, nearest adversarial images: median distance {self.median_distance:.4g}{unit} (95% "
                f"interval {low:.4g} to {high:.4g}), none found for {np.isinf(self.distances).mean():.1%}"
            )
        if self.eps is not None or self.distances is None:
            sizes = self.eps if isinstance(self.eps, tuple) else (self.eps,)
            for eps, row, (low, high) in zip(sizes, self.robust, self._intervals()):
                size = "" if eps is None else f", eps {eps:.4g}{unit.removesuffix('s') if eps == 1 else unit}"
                lines.append(f"{self.attack}{size}: {row.mean():.1%} robust (95% interval {low:.1%} to {high:.1%})")
        return "\n".join([*lines, *filter(None, [self.rounding(), self.left_out(), self.upper_bound()])])

    def left_out(self) -> str:
        """Sentences on what the attack "fast" left out of AutoAttack; "" for other attacks."""
        if self.attack != "fast":
            return ""
        counts = self.cost.remaining
        left, given_up, sampled = (" / ".join(map(str, counts[key])) for key in ("square", "given up", "sample"))
        text = (
            f"upper bound; AutoAttack not run. Of {left} robust images, {given_up} were given up before all targets "
            f"were tried. Square Attack was run on a sample of {sampled}"
        )
        if counts["square"] == counts["other targets"]:
            return f"{text} and fooled none."
        return f"{text}, fooled some, and was then run on all."

    def rounding(self) -> str:
        """A sentence about `fooled_after_rounding`; "" where there is nothing to say."""
        shares = np.atleast_1d(self.fooled_after_rounding if self.rounded_correct is not None else math.nan)
        if np.isnan(shares).all():
            return ""
        listing = " / ".join("–" if math.isnan(share) else f"{share:.1%}" for share in shares)
        return f"rounded to 8 bits, {listing} of the adversarial images still fool the model"

    def _summary_of_sets(self) -> list[str]:
        (low, high), single = self.interval, len(self.sets) == 1
        what = f"severity {self.sets[0][1]}" if single else f"mean over {len(self.sets)} sets"
        interval = f"(95% interval {low:.1%} to {high:.1%})"
        first = f"{self.attack}, {self.settings['constants']} constants, {what}: {self.robust_accuracy:.1%} {interval}"
        means = (("severity ", self.by_severity()), ("", self.by_corruption()))
        texts = [", ".join(f"{start}{key} {value:.1%}" for key, value in found.items()) for start, found in means]
        return [first] if single else [first, *texts]

    def upper_bound(self) -> str:
        """A sentence that says why the robust accuracy is an upper bound; "" where only a few images suggest that."""
        if self.attack == "fast" and self.cost.remaining["square"] != self.cost.remaining["other targets"]:
            return "Square Attack fooled images on which attacks with gradients fail: these are masked. Run AutoAttack."
        if self.without_gradient <= max(_FEW, _FEW_SHARE * self.gradients_checked):
            return ""
        return (
            f"{self.without_gradient} of {self.gradients_checked} robust images have no gradient for {self.attack} to "
            "follow: the robust accuracy is an upper bound. Try 'apgd-t' or 'square', and the checks for gradient "
            "masking."
        )

    @property
    def _has_levels(self) -> bool:
        """Whether `adversarial` has a first axis of E."""
        return isinstance(self.eps, tuple) or len(self.sets) > 1

    def _per_eps(self, values: Sequence) -> Any:
        return tuple(values) if isinstance(self.eps, tuple) else values[0]


def is_precise(results: Sequence[Result], precision: float) -> bool:
    """Whether the intervals of the clean and all robust accuracies on the images of all results are narrow enough."""
    counts = [[r.clean_correct.sum(), *r.robust.sum(axis=1)] for r in results]
    return precise(np.sum(counts, axis=0), sum(r.n for r in results), precision)


def _refuse_samples(results: Sequence[Result]) -> None:
    if any(r.sample is not None for r in results):
        raise ValueError("images that were drawn until intervals were narrow: call evaluate(…) without precision.")


def concatenate(results: Sequence[Result]) -> Result:
    """The result of all images from the results of some of them, in order.

    Raises:
      ValueError: the images of a result are a sample.
    """
    _refuse_samples(results)
    return dataclasses.replace(
        results[0],
        clean_correct=np.concatenate([r.clean_correct for r in results]),
        adversarial_correct=np.concatenate([r.adversarial_correct for r in results], axis=1),
        cost=functools.reduce(CostSummary.__add__, [r.cost for r in results]),
        adversarial=_concatenated([r.adversarial for r in results], 1 if results[0]._has_levels else 0),
        distances=_concatenated([r.distances for r in results], 0),
        gradients_checked=sum(r.gradients_checked for r in results),
        without_gradient=sum(r.without_gradient for r in results),
        rounded_correct=_concatenated([r.rounded_correct for r in results], 1),
    )


def _concatenated(arrays: Sequence[np.ndarray | None], axis: int) -> np.ndarray | None:
    """None where one of them is missing."""
    present = [array for array in arrays if array is not None]
    if len(present) < len(arrays):
        return None
    return present[0] if len(present) == 1 else np.concatenate(present, axis)


def worst_case(results: Sequence[Result]) -> Result:
    """The images that are robust under every one of several attacks on the same images at the same eps.

    Raises:
      ValueError: the results are of different numbers of images or eps, of samples, or of sets of corrupted images.
    """
    _refuse_samples(results)
    if any(r.sets for r in results):
        raise ValueError("sets of corrupted images have no worst case with other attacks.")
    if len({(r.n, r.eps) for r in results}) != 1:
        raise ValueError("the worst case needs results of the same images at the same eps.")
    return dataclasses.replace(
        results[0],
        attack="worst",
        settings={"attacks": [r.attack for r in results]},
        adversarial_correct=np.logical_and.reduce([r.robust for r in results]),
        cost=CostSummary(),
        adversarial=None,
        distances=None,
        gradients_checked=0,
        without_gradient=0,
        rounded_correct=None,
    )
