"""`Recipe`, one way to train a model, and `Experiment`, a set of recipes.

This module loads neither TensorFlow nor anything else of tfadv, so that flags can be checked quickly and a change
in the report does not make trained models out of date.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tfadv import specs

SAMPLES = ("clean", "repeated", "surrogate", "own", "ensemble")
SURROGATE_SAMPLES = ("surrogate", "ensemble")  # those that the models of --surrogate make
EPOCHS = ("epochs", "retrain_epochs", "defense_epochs")
WEIGHT_DECAYS = ("weight_decay", "defense_weight_decay")
SCRATCH, REFERENCE = "scratch", "reference"

# Stages that every experiment has.  The stages of its recipes and its extra stages come between them.
FIRST_STAGES = {"prepare": "splits"}
LAST_STAGES = {
    "evaluate": "evaluations",
    "explain": "explanations",
    "report": "report",
    "compare": "report",
    "all": "report",
    "status": "status",
}
TARGETS = ("splits", "reference_evaluation", "samples", "evaluations", "explanations", "report", "status")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one variant of a model is trained.

    Attributes:
      name: the variant's name in files, flags and tables.
      title: the variant's name in plots and sentences.
      stage: the `--stage` that trains it; "" means a stage with the recipe's name.
      start: where its weights start: "scratch", the name of a recipe listed before it, or, for a recipe that is added
        to an experiment, "reference".
      samples: the images it is trained on.
        "clean": each clean image once per epoch.
        "repeated": clean images only, each as often per epoch as with "surrogate", so that both recipes take the
          same number of steps.
        "surrogate": each clean image and the surrogate's stored adversarial images of it, one per eps.
        "own": the same with stored adversarial images of the model that training starts from.
        "ensemble": each clean image once per epoch and as many stored adversarial images of all models of
          `--surrogate`.
      objective: the training objective, a name in `tfadv.objectives.OBJECTIVES`.
      objective_settings: (name, value) of the objective's settings that are not its defaults.
      augment: whether images are augmented (`--augmentations`).
      balance: whether larger classes are undersampled to the size of the smallest one.
      epochs: the setting that holds the number of epochs, one of `EPOCHS`.
      weight_decay: the setting that holds the weight decay, one of `WEIGHT_DECAYS`.
      budgeted: whether `--budget`, where it is given, decides how long training takes.
      rounds: whether the recipe is repeated `--rounds` times, each time starting from the round before.
      round: the number of the round, from 1; 0 where the recipe is not one of several rounds.
      evaluated: whether its models are evaluated and reported. False: trained only because a later round starts from
        it.
      color: a Matplotlib color for plots; "" takes the next color of the palette.
      marker: a Matplotlib marker for plots; "" takes the next marker.

    Raises:
      ValueError: `samples` or `epochs` is none of the above, or the name is empty or "scratch".
    """

    name: str
    title: str
    stage: str = ""
    start: str = SCRATCH
    samples: str = "clean"
    objective: str = "cross_entropy"
    objective_settings: tuple[tuple[str, Any], ...] = ()
    augment: bool = False
    balance: bool = False
    epochs: str = "epochs"
    weight_decay: str = "weight_decay"
    budgeted: bool = False
    rounds: bool = False
    round: int = 0
    evaluated: bool = True
    color: str = ""
    marker: str = ""

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """The same recipe with settings of its objective, or a round, which become part of its name."""
        if not settings:
            return self
        if self.rounds and set(settings) == {"round"} and isinstance(settings["round"], int) and settings["round"] > 0:
            number, name = settings["round"], specs.label(self.name, settings)
            start = REFERENCE if number == 1 else specs.label(self.name, {"round": number - 1})
            title = f"{self.title}, round {number}"
            return dataclasses.replace(self, name=name, title=title, start=start, round=number)
        name = specs.label(self.name, settings)
        return dataclasses.replace(
            self, name=name, title=specs.label(self.title, settings), objective_settings=tuple(sorted(settings.items()))
        )

    def expanded(self, rounds: int) -> tuple[Recipe, ...]:
        """The recipe itself, or its rounds 1 to `rounds` where it is repeated.

        Of the rounds, 1, 2, 4, 8 and so on are evaluated, and the last one.
        """
        if not self.rounds or self.round:
            return (self,)
        recipes = (self.with_settings({"round": number}) for number in range(1, rounds + 1))
        return tuple(
            dataclasses.replace(recipe, evaluated=recipe.round == rounds or recipe.round.bit_count() == 1)
            for recipe in recipes
        )

    @property
    def defense(self) -> str | None:
        """The defense that results.json names: the objective with its settings, or the kind of stored samples."""
        if self.objective != "cross_entropy":
            return specs.label(self.objective, dict(self.objective_settings))
        return {"surrogate": "surrogate", "own": "rounds"}.get(self.samples)

    def __post_init__(self) -> None:
        if not self.name or self.name == SCRATCH or "/" in self.name:
            raise ValueError(f"recipe name {self.name!r}: it must not be empty, contain '/' or be {SCRATCH!r}.")
        if self.samples not in SAMPLES:
            raise ValueError(f"recipe {self.name!r}: samples is {self.samples!r}, must be one of {', '.join(SAMPLES)}.")
        if self.samples == "own" and self.start == SCRATCH:
            raise ValueError(f"recipe {self.name!r}: samples 'own' need weights to start from, not {SCRATCH!r}.")
        if self.epochs not in EPOCHS:
            raise ValueError(f"recipe {self.name!r}: epochs is {self.epochs!r}, must be one of {', '.join(EPOCHS)}.")
        if self.weight_decay not in WEIGHT_DECAYS:
            accepted = ", ".join(WEIGHT_DECAYS)
            raise ValueError(f"recipe {self.name!r}: weight_decay is {self.weight_decay!r}, must be one of {accepted}.")
        if not self.stage:
            object.__setattr__(self, "stage", self.name)

    @property
    def summary(self) -> str:
        """One line that describes the recipe, for legends."""
        start = "trained from scratch" if self.start == SCRATCH else f"starts from {self.start}"
        samples = {
            "clean": "clean images",
            "repeated": "clean images, as many steps as with the surrogate's adversarial images",
            "surrogate": "clean images and the surrogate's adversarial images",
            "own": "clean images and adversarial images of the model that training starts from",
            "ensemble": "clean images and adversarial images of all surrogates",
        }[self.samples]
        parts = [start, samples]
        if self.objective != "cross_entropy":
            parts.append(f"objective {specs.label(self.objective, dict(self.objective_settings))}")
        if self.augment:
            parts.append("augmentation")
        if self.balance:
            parts.append("balanced classes")
        return "; ".join(parts)


class Published(Protocol):
    """Published figures that a report shows beside its own."""

    def covers(self, dataset: str) -> bool:
        """Whether there are figures for a data set."""

    def accuracy(self, dataset: str, model: str, recipe: str, eps: float | None) -> float | None:
        """A published accuracy in percent, or None where there is none.

        Args:
          dataset: name of the data set.
          model: name of the model.
          recipe: name of the recipe.
          eps: size of the white-box FGSM perturbation; None means clean images.
        """


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A set of recipes that are trained, evaluated and compared.

    Attributes:
      name: name of the experiment.
      recipes: the recipes, each after the one that it starts from.
      reference: name of the recipe that the others are compared with.  The surrogate is a model trained by it.
      extra_stages: stage → what it makes, one of `TARGETS`.  These stages are listed after the reference's stage.
      published: figures to compare with, or None.
      tables: function from `tfadv.report.data.ReportData` to a dict of file name → `tfadv.report.table.Table`,
        the experiment's own tables; None takes `tfadv.report.tables.default_tables`.
      headline: function from `ReportData` to the sentences at the top of the report; None takes
        `tfadv.report.tables.default_headline`.

    Raises:
      ValueError: a name is used twice or missing, or the reference needs samples of the surrogate, which it trains.
    """

    name: str
    recipes: tuple[Recipe, ...]
    reference: str
    extra_stages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    published: Published | None = None
    tables: Callable[[Any], dict[str, Any]] | None = None
    headline: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        names = [recipe.name for recipe in self.recipes]
        if len(set(names)) < len(names):
            raise ValueError(f"experiment {self.name!r}: two recipes have the same name: {', '.join(names)}.")
        if self.reference not in names:
            raise ValueError(f"experiment {self.name!r}: reference {self.reference!r} is none of {', '.join(names)}.")
        for i, recipe in enumerate(self.recipes):
            starts = (SCRATCH, *names[:i])
            if recipe.start not in starts:
                raise ValueError(
                    f"recipe {recipe.name!r}: start is {recipe.start!r}, must be one of {', '.join(starts)}."
                )
        ancestor = self.recipe(self.reference)
        while True:
            if ancestor.samples in SURROGATE_SAMPLES:
                raise ValueError(f"recipe {ancestor.name!r} makes the surrogate and cannot be trained on its samples.")
            if ancestor.start == SCRATCH:
                break
            ancestor = self.recipe(ancestor.start)
        reserved = {*FIRST_STAGES, *self.extra_stages, *LAST_STAGES}
        for recipe in self.recipes:
            if recipe.stage in reserved:
                raise ValueError(f"recipe {recipe.name!r}: the stage {recipe.stage!r} is taken.")
        for stage, target in self.extra_stages.items():
            if target not in TARGETS or stage in FIRST_STAGES or stage in LAST_STAGES:
                raise ValueError(
                    f"experiment {self.name!r}: extra stage {stage!r} is taken, or {target!r} is no target."
                )

    @property
    def stages(self) -> tuple[str, ...]:
        """All names of `--stage`, in the order in which a whole run goes through them."""
        trained = list(dict.fromkeys(recipe.stage for recipe in self.recipes))
        after = trained.index(self.recipe(self.reference).stage) + 1
        return (*FIRST_STAGES, *trained[:after], *self.extra_stages, *trained[after:], *LAST_STAGES)

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name; raises KeyError where there is none."""
        return {recipe.name: recipe for recipe in self.recipes}[name]

    def trained_by(self, stage: str) -> tuple[Recipe, ...]:
        """The recipes that a stage trains; empty for the stages in `target`."""
        return tuple(recipe for recipe in self.recipes if recipe.stage == stage)

    def target(self, stage: str) -> str | None:
        """What a stage makes, one of `TARGETS`; None where it trains recipes (see `trained_by`)."""
        return {**FIRST_STAGES, **self.extra_stages, **LAST_STAGES}.get(stage)

    def with_recipes(self, recipes: tuple[Recipe, ...]) -> Experiment:
        """The same experiment with further recipes at the end; a start "reference" becomes the name of that recipe."""
        named = [dataclasses.replace(r, start=self.reference) if r.start == REFERENCE else r for r in recipes]
        return dataclasses.replace(self, recipes=(*self.recipes, *named))
