"""The experiment of `--stage=compare`: defenses beside the reference that they all start from."""

from __future__ import annotations

from tfadv.experiments.recipe import SCRATCH, Experiment, Recipe
from tfadv.report.comparison import fgsm_tables


def compared(experiment: Experiment, recipes: tuple[Recipe, ...]) -> Experiment:
    """An experiment of the reference, the recipes that it starts from, and the recipes to compare.

    Raises:
      ValueError: as `Experiment`.
    """
    needed: list[Recipe] = []
    start = experiment.reference
    while start != SCRATCH:
        needed.insert(0, experiment.recipe(start))
        start = needed[0].start
    alone = Experiment(
        experiment.name, tuple(needed), experiment.reference, experiment.extra_stages, tables=fgsm_tables
    )
    return alone.with_recipes(recipes)
