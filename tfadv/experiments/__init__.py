"""Experiments: recipes, the artifacts that they lead to, and the tables of experiments and of further recipes."""

from __future__ import annotations

from tfadv.registry import Registry

AFFECTS_RESULTS = False  # artifacts record the recipe that they are built by

EXPERIMENTS = Registry("experiment", {"paper": "tfadv.experiments.paper:PAPER", "own": "tfadv.experiments.own:OWN"})
# Recipes that --defenses adds to an experiment.
_DEFENSES = (
    "control", "surrogate", "rounds", "ensemble", "nfgsm", "rsfgsm", "free", "pgd", "trades", "mart", "hat",
)  # fmt: skip
RECIPES = Registry("recipe", {name: f"tfadv.experiments.defenses:{name.upper()}" for name in _DEFENSES})
