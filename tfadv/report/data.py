"""What a report is made of.  These classes hold results only: no model, no file and no TensorFlow."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import numpy as np

if TYPE_CHECKING:
    from tfadv.evaluation.checks import Check
    from tfadv.evaluation.records import Record


class Recipe(Protocol):
    """What a report needs to know of a `tfadv.experiments.recipe.Recipe`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def color(self) -> str: ...
    @property
    def marker(self) -> str: ...


class Published(Protocol):
    """What a report needs to know of published figures."""

    def covers(self, dataset: str) -> bool: ...
    def accuracy(self, dataset: str, model: str, recipe: str, eps: float | None) -> float | None: ...


class Experiment(Protocol):
    """What a report needs to know of a `tfadv.experiments.recipe.Experiment`, which is a layer above."""

    @property
    def recipes(self) -> Sequence[Recipe]: ...
    @property
    def reference(self) -> str: ...
    @property
    def published(self) -> Published | None: ...
    @property
    def tables(self) -> Callable[[Any], dict[str, Any]] | None: ...
    @property
    def headline(self) -> Callable[[Any], str] | None: ...


class TransferRow(TypedDict):
    """How many of the images that were attacked on one model the others classify correctly.

    Keys:
      n: number of images.
      eps: size of the perturbation.
      correct: "model/recipe" → number of images classified correctly, both clean and attacked.
    """

    n: int
    eps: float
    correct: dict[str, int]


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """What the training of one model took, without that of the model it started from.

    Attributes:
      gradients: forward and backward passes of single images, for updates and attacks.
      seconds: duration of the last process that trained it.
      collapsed_epoch: the epoch in which training collapsed (catastrophic overfitting), or None.
    """

    gradients: int
    seconds: float
    collapsed_epoch: int | None = None


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What one model predicts for the K images of `Examples`.

    Attributes:
      clean: int (K,), predicted classes of the clean images.
      clean_confidence: float (K,), softmax probabilities of these classes, in [0, 1].
      attacked: int (K,), predicted classes under a white-box attack on this model.
      attacked_confidence: float (K,), softmax probabilities of these classes.
    """

    clean: np.ndarray
    clean_confidence: np.ndarray
    attacked: np.ndarray
    attacked_confidence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    """K attacked images of the example sheet.

    Attributes:
      model: name of the model.
      attack: name of the attack.
      eps: size of the perturbation.
      indices: int (K,), positions in the test split.
      images: float32 (K, H, W, C) in [0, 1].
      labels: int (K,), true classes.
      adversarial: float32 (K, H, W, C) in [0, 1], attacked on the reference recipe's model.
      predictions: recipe name → `Predictions`.
      n_candidates: number of test images that these were chosen from, the first ones of the split.
      n_fooled: number of them that the reference classifies correctly, but not under attack.
    """

    model: str
    attack: str
    eps: float
    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    adversarial: np.ndarray
    predictions: Mapping[str, Predictions]
    n_candidates: int
    n_fooled: int

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed npz file."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays["recipes"] = np.array(list(arrays.pop("predictions")), dtype=np.str_)
        for name, predictions in self.predictions.items():
            for field in dataclasses.fields(predictions):
                arrays[f"{field.name}/{name}"] = getattr(predictions, field.name)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: pathlib.Path) -> Examples:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        predictions = {
            str(name): Predictions(**{f.name: arrays.pop(f"{f.name}/{name}") for f in dataclasses.fields(Predictions)})
            for name in arrays.pop("recipes")
        }
        values = {key: value if value.ndim else value.item() for key, value in arrays.items()}
        return cls(**values, predictions=predictions)


def choose_examples(labels: np.ndarray, clean: np.ndarray, attacked: np.ndarray, count: int = 6) -> np.ndarray:
    """Chooses images for the example sheet: fooled ones first, and among them one of each class before a second.

    Args:
      labels: int (N,), true classes.
      clean: int (N,), classes that the reference predicts.
      attacked: int (N,), classes that it predicts under attack.
      count: the number of images to choose.

    Returns:
      int (min(count, N),), positions in `labels`.
    """
    fooled = np.flatnonzero((clean == labels) & (attacked != labels))
    order = np.concatenate([fooled, np.setdiff1d(np.arange(len(labels)), fooled)])
    _, first_of_class = np.unique(labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first_of_class)
    preferred = np.concatenate([np.sort(first_of_class), rest])[:count]
    return np.asarray(order[preferred])


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The results of an experiment on one data set.

    Attributes:
      dataset: name of the data set.
      class_names: names of the classes.
      records: the entries of results.json that the report is about.
      experiment: the experiment; its recipes are those of the records.
      transfer_matrix: "model/recipe" that was attacked → `TransferRow`; None where it was not evaluated.
      checks: "model/recipe" → results of the checks for gradient masking.
      examples: images of the example sheet, or None.
      training: "model/recipe" → what its training took.
    """

    dataset: str
    class_names: tuple[str, ...]
    records: tuple[Record, ...]
    experiment: Experiment
    transfer_matrix: Mapping[str, TransferRow] | None = None
    checks: Mapping[str, Sequence[Check]] = dataclasses.field(default_factory=dict)
    examples: Examples | None = None
    training: Mapping[str, TrainingCost] = dataclasses.field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the records."""
        return tuple(dict.fromkeys(record.model for record in self.records))

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of the recipes in the records: the experiment's in its order, then others."""
        names = dict.fromkeys(record.variant for record in self.records)
        ordered = [recipe.name for recipe in self.experiment.recipes if recipe.name in names]
        return tuple(dict.fromkeys([*ordered, *names]))

    @property
    def epsilons(self) -> tuple[float, ...]:
        """All sizes of perturbation in the records, ascending."""
        return tuple(sorted({record.eps for record in self.records if record.eps is not None}))

    def accuracy(self, model: str, recipe: str, protocol: str, eps: float | None = None) -> float | None:
        """The accuracy in percent on clean images or under FGSM on all test images, or None where there is none.

        Args:
          model: name of the model.
          recipe: name of the recipe.
          protocol: "clean", "whitebox" or "transfer".
          eps: size of the perturbation; None for clean images.
        """
        wanted = (model, recipe, protocol, eps)
        for record in self.records:
            if (record.model, record.variant, record.protocol, record.eps) == wanted and record.settings is None:
                return 100 * record.accuracy
        return None
