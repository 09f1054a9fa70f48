"""Recipes of defenses from the literature, which `--defenses` adds to an experiment.

Each starts from the reference recipe's weights and trains with augmentation.
"""

from __future__ import annotations

from tfadv.experiments.recipe import REFERENCE, Recipe


def _defense(name: str, title: str, *, samples: str = "clean", online: bool = True, rounds: bool = False) -> Recipe:
    """A recipe with the objective of its name, where `online`, or with standard training on other samples."""
    return Recipe(
        name=name,
        title=title,
        stage="retrain",
        start=REFERENCE,
        samples=samples,
        objective=name if online else "cross_entropy",
        augment=True,
        epochs="retrain_epochs" if samples in ("surrogate", "own") else "defense_epochs",
        weight_decay="defense_weight_decay" if online else "weight_decay",
        budgeted=True,
        rounds=rounds,
    )


CONTROL = _defense("control", "Clean control", online=False)
SURROGATE = _defense("surrogate", "Surrogate's samples", samples="surrogate", online=False)
ROUNDS = _defense("rounds", "Own samples", samples="own", online=False, rounds=True)
ENSEMBLE = _defense("ensemble", "Ensemble", samples="ensemble")
NFGSM = _defense("nfgsm", "N-FGSM")
RSFGSM = _defense("rsfgsm", "RS-FGSM")
FREE = _defense("free", "Free")
PGD = _defense("pgd", "PGD training")
TRADES = _defense("trades", "TRADES")
MART = _defense("mart", "MART")
HAT = _defense("hat", "HAT")
