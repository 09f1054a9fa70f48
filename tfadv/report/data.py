"""What a report is made of.  These classes hold results only: no model, no file and no TensorFlow."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

from tfadv.evaluation.guessing import hardly_better_than_guessing
from tfadv.evaluation.records import WORST_CASE

if TYPE_CHECKING:
    import numpy as np

    from tfadv.evaluation.certificate import Certificate
    from tfadv.evaluation.checks import Check
    from tfadv.evaluation.records import Record
    from tfadv.explanation import Explanation
    from tfadv.report.gallery import Gallery

# As pages name them.
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0 (values)", "pixels": "L0 (pixels)"}
ONE_STEP = ("fgsm", "onestep")  # attacks


class Defense(Protocol):
    """What a report needs to know of a `tfadv.defenses.base.Defense`."""

    @property
    def label(self) -> str:
        """The name and the settings, as in records."""

    @property
    def title(self) -> str:
        """What plots call it."""

    @property
    def summary(self) -> str:
        """A line that describes it."""

    @property
    def color(self) -> str:
        """In plots; "" takes the next one."""

    @property
    def marker(self) -> str:
        """In plots; "" takes the next one."""

    @property
    def uses_budget(self) -> bool:
        """Whether it is compared with others at the same `--budget`."""


class Published(Protocol):
    """Published figures that a report shows beside its own, such as the module `tfadv.paper`."""

    def covers(self, dataset: str) -> bool:
        """Whether there are figures for a data set."""

    def accuracy(self, dataset: str, model: str, defense: str, eps: float | None) -> float | None:
        """A published accuracy in percent, on clean images where eps is None; None where there is none."""


class TransferRow(TypedDict):
    """How many of the images that were attacked on one model the others classify correctly.

    Keys:
      n: number of images.
      eps: size of the perturbation.
      correct: "model/defense" → number of images classified correctly, both clean and attacked.
      attack: "model/defense" → the attack that left it fewest, where there were several.
    """

    n: int
    eps: float
    attack: NotRequired[dict[str, str]]
    correct: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Training:
    """How one model was trained, without the training of the model it started from; but see `with_earlier_rounds`.

    Attributes:
      gradients: forward and backward passes of single images, for updates and attacks.
      seconds: duration of the last process that trained it.
      collapsed_epoch: the epoch in which training collapsed (catastrophic overfitting), or None.
      history: name of a metric, as Keras names it → its value in each epoch.
      best_epoch: the epoch whose weights were kept, from 1; 0 where these are the weights that training started from.
    """

    gradients: int
    seconds: float
    collapsed_epoch: int | None = None
    history: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    best_epoch: int = 0

    @classmethod
    def from_files(cls, history: Mapping[str, Any], manifest: Mapping[str, Any]) -> Training:
        """What history.json and manifest.json of a trained model say."""
        return cls(
            gradients=history["gradients"],
            seconds=manifest["seconds"],
            collapsed_epoch=history.get("collapsed_epoch"),
            history=history["history"],
            best_epoch=history["best_epoch"],
        )


def with_earlier_rounds(rounds: Sequence[Training]) -> Training:
    """How the last of several rounds was trained, with the gradients and seconds of all of them."""
    gradients, seconds = sum(own.gradients for own in rounds), sum(own.seconds for own in rounds)
    return dataclasses.replace(rounds[-1], gradients=gradients, seconds=seconds)


@dataclasses.dataclass(frozen=True)
class Origin:
    """What the results are of, for evidence.

    Attributes:
      labels: int (N,), the classes of the test images, in the order in which attacks take them.
      chosen: how the test images were chosen, a sentence.
      hashes: what of the data → its SHA-256.
      models: "model/defense" → what of the model → its SHA-256.
      access: "model/defense" of a deployed model → how it is attacked, a sentence.
      rounding: "model/defense under attack" → the shares of adversarial images that still fool it after rounding to 8
        bits, one per eps; None where no image fools it.
      versions: "tfadv", "python", "tensorflow", … → version.
    """

    labels: np.ndarray
    chosen: str
    hashes: Mapping[str, str]
    models: Mapping[str, Mapping[str, Any]]
    access: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rounding: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The results of a run on one data set.

    Attributes:
      dataset: name of the data set.
      class_names: names of the classes.
      records: the entries of results.json that the report is about.
      known_defenses: the defenses of the records, in the order of tables.
      first: label of the defense that the others start from and are compared with.
      published: figures to show beside these, or None.
      tables: function from these data to a dict of file name → `tfadv.report.table.Table`, the tables of accuracies;
        None takes `tfadv.report.tables.default_tables`.
      headline: function from these data to the sentences at the top; None takes
        `tfadv.report.tables.default_headline`.
      transfer_matrix: "model/defense" that was attacked → `TransferRow`; None where it was not evaluated.
      checks: "model/defense" → results of the checks for gradient masking.
      gallery: attacked images, or None.
      explanations: "model/defense" → `Explanation`, where there is one.
      certificates: "model/defense" → `Certificate`, where there is one.
      training: "model/defense" → how it was trained.
      provenance: what the results were computed with, such as "command" and "seed" → text.
      largest_share: share of the largest class among the test images; 0 where it is not known.
      upper_bounds: "model/defense under attack" where the robust accuracy is an upper bound, because robust images have
        no gradient for the attack to follow.
      origin: what the results are of, or None.
    """

    dataset: str
    class_names: tuple[str, ...]
    records: tuple[Record, ...]
    known_defenses: Sequence[Defense]
    first: str
    published: Published | None = None
    tables: Callable[[Any], dict[str, Any]] | None = None
    headline: Callable[[Any], str] | None = None
    transfer_matrix: Mapping[str, TransferRow] | None = None
    checks: Mapping[str, Sequence[Check]] = dataclasses.field(default_factory=dict)
    gallery: Gallery | None = None
    explanations: Mapping[str, Explanation] = dataclasses.field(default_factory=dict)
    certificates: Mapping[str, Certificate] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Training] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    largest_share: float = 0.0
    upper_bounds: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the records."""
        return tuple(dict.fromkeys(record.model for record in self.records))

    @property
    def defenses(self) -> tuple[str, ...]:
        """Labels of the defenses in the records: the known ones in their order, then others."""
        names = dict.fromkeys(record.defense for record in self.records)
        ordered = [defense.label for defense in self.known_defenses if defense.label in names]
        return tuple(dict.fromkeys([*ordered, *names]))

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The sizes of the run, at which FGSM was evaluated, ascending; all sizes where it was not."""
        every = {record.eps for record in self.records if record.eps is not None}
        of_fgsm = {record.eps for record in self.records if record.settings is None}
        return tuple(sorted(every & of_fgsm or every))

    @property
    def under_attacks(self) -> list[Record]:
        """The records under each attack of `--attacks`, FGSM included, at the largest size of the run."""
        eps = max(self.epsilons, default=None)
        return [r for r in self.records if r.settings and r.attack != WORST_CASE and r.eps is not None and r.eps == eps]

    @property
    def suspicious(self) -> tuple[str, ...]:
        """ "model/defense" of those that fail a check for gradient masking."""
        return tuple(name for name, checks in self.checks.items() if any(check.passed is False for check in checks))

    @property
    def guessing(self) -> tuple[str, ...]:
        """ "model/defense" of those that are hardly better on clean images than always answering the largest class."""
        return tuple(
            f"{record.model}/{record.defense}"
            for record in self.records
            if record.protocol == "clean" and hardly_better_than_guessing(record.accuracy, self.largest_share)
        )

    def record(self, model: str, defense: str, protocol: str, eps: float | None = None) -> Record | None:
        """The result on clean images or under FGSM on all test images, or None where there is none.

        Args:
          model: name of the model.
          defense: its label.
          protocol: "clean", "whitebox" or "transfer".
          eps: size of the perturbation; None for clean images.
        """
        wanted = (model, defense, protocol, eps)
        for record in self.records:
            if (record.model, record.defense, record.protocol, record.eps) == wanted and record.settings is None:
                return record
        return None

    def worst_case(self, model: str, defense: str, eps: float) -> Record | None:
        """The result for the images that no attack changed, or None where there were no stronger attacks."""
        for record in self.records:
            if (record.model, record.defense, record.attack, record.eps) == (model, defense, WORST_CASE, eps):
                return record
        return None

    def with_distances(self, model: str, defense: str | None = None) -> dict[str, Record]:
        """The attacks in L∞ whose distances are known: their labels → one of their records; None: of any defense."""
        return {
            record.attack_label: record
            for record in self.records
            if record.model == model
            and defense in (None, record.defense)
            and record.distances is not None
            and record.norm == "linf"
        }

    def accuracy(self, model: str, defense: str, protocol: str, eps: float | None = None) -> float | None:
        """The accuracy in percent of the same `record`, or None."""
        record = self.record(model, defense, protocol, eps)
        return None if record is None else 100 * record.accuracy


def dataset_name(name: str) -> str:
    """The name of a data set for titles: of the user's own folder or file, the last part of its path."""
    kind, _, path = name.partition(":")
    return pathlib.PurePath(path).name or name if kind in ("folder", "npz") else name
