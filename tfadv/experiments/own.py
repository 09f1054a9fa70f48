"""The experiment of a model that the user brings along: it is evaluated as it is, beside defenses that harden it."""

from __future__ import annotations

from tfadv.experiments.recipe import Experiment, Recipe

# A model of the table, such as a surrogate, has no weights of its own and is trained on clean images.
ORIGINAL = Recipe(name="original", title="Original", stage="train", color="#D55E00", marker="o")

OWN = Experiment(
    name="own",
    recipes=(ORIGINAL,),
    reference="original",
    extra_stages={"attack": "reference_evaluation", "generate": "samples"},
)
