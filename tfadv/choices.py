"""Allowed values of settings that depend on other settings or on plugins.

`config` is a `tfadv.config.Config`, or an object with the same fields.  No TensorFlow here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tfadv.errors import UserError
from tfadv.models import MODELS, own
from tfadv.objectives import OBJECTIVES
from tfadv.specs import split_specs

if TYPE_CHECKING:
    from tfadv.experiments.recipe import Experiment, Recipe

AFFECTS_RESULTS = False
COMPARE = "compare"  # the stage that compares defenses
STATUS = "status"  # the stage that says what is done, and does nothing


def models(config: Any) -> Iterable[str]:
    """The table of models, and those that the user brings along."""
    given = (*getattr(config, "models", ()), *getattr(config, "surrogate", ()))
    return [*MODELS, *(name for name in given if own.is_own(name))]


def check_models(config: Any) -> None:
    """Checks the models, and the settings that concern them.

    Raises:
      UserError: a model or its weights do not exist, two models have the same label, or a setting does not apply.
    """
    if config.weights not in ("", "imagenet") and not os.path.isfile(os.path.expanduser(config.weights)):
        raise UserError(f"--weights={config.weights}: give imagenet or the path of a .keras file.")
    names = list(dict.fromkeys(map(own.normalized, (*config.models, *config.surrogate))))
    own_names = [name for name in names if own.is_own(name)]
    for name in own_names:
        own.check(name)
    _check_own(config, names, own_names)
    labels = [own.label(name) if own.is_own(name) else name for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two models are called {label!r}: rename one of {', '.join(names)}.")


def _check_own(config: Any, names: list[str], own_names: list[str]) -> None:
    """Checks settings that are for the user's own models only, or not for them."""
    if not own_names and config.input_range != "auto":
        raise UserError(f"--input_range={config.input_range} is for your own models; --models names none.")
    if own_names == names and config.weights:
        raise UserError(f"--weights={config.weights} is for built-in models; {', '.join(names)} has its own weights.")
    if own_names and config.retrain_from == "scratch":
        raise UserError("--retrain_from=scratch: a model of your own has no random weights to start from.")
    if config.defenses or experiment_name(config) != "own":
        trained = {own.normalized(name) for name in config.defense_models or config.models}
        for name in filter(own.is_saved_model, own_names):
            if name in trained:
                raise UserError(
                    f"{name} is a SavedModel, which can be attacked but not trained: give the .keras file of the model."
                )


def experiment_name(config: Any) -> str:
    """The experiment given, or the one that fits the models."""
    return config.experiment or ("own" if any(map(own.is_own, config.models)) else "paper")


def experiments(config: Any) -> Iterable[str]:
    """The table of experiments."""
    from tfadv.experiments import EXPERIMENTS

    return EXPERIMENTS


def experiment(config: Any) -> Experiment:
    """The experiment of `--experiment` with the recipes of `--defenses` added."""
    from tfadv.experiments import EXPERIMENTS

    declared: Experiment = EXPERIMENTS[experiment_name(config)]
    try:
        extended = declared.with_recipes(tuple(defenses(config)))
    except ValueError as error:
        raise UserError(f"--defenses={config.defenses} with --experiment={declared.name}: {error}")
    for recipe in extended.recipes:
        OBJECTIVES.check(recipe.objective)
    return extended


def compared_experiment(config: Any) -> Experiment:
    """The reference, the control and the recipes of `--defenses`."""
    from tfadv.experiments import EXPERIMENTS
    from tfadv.experiments.comparison import compared

    return compared(EXPERIMENTS[experiment_name(config)], tuple(defenses(config)))


def defenses(config: Any) -> list[Recipe]:
    """The recipes of `--defenses`; with `--stage=compare` also that of the control."""
    from tfadv.experiments import RECIPES

    specs = split_specs(config.defenses, RECIPES)
    if config.stage == COMPARE and ("control", {}) not in specs:
        specs.insert(0, ("control", {}))
    named = [RECIPES[name].with_settings(settings) for name, settings in specs]
    return [expanded for recipe in named for expanded in recipe.expanded(config.rounds)]


def recipes(config: Any) -> Iterable[str]:
    """The table of recipes."""
    from tfadv.experiments import RECIPES

    return RECIPES


def attacks(config: Any) -> Iterable[str]:
    """The table of attacks."""
    from tfadv.attacks import ATTACKS  # imports no TensorFlow

    return ATTACKS


def starts(config: Any) -> tuple[str, ...]:
    """What `--retrain_from` accepts."""
    # A recipe that itself starts from another one would create a cycle.
    return ("scratch", *(recipe.name for recipe in experiment(config).recipes if recipe.start == "scratch"))
