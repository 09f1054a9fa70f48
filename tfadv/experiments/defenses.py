"""Recipes of defenses from the literature, which `--defenses` adds to an experiment.

Each starts from the reference recipe's weights and trains with augmentation and an objective of its own.
"""

from __future__ import annotations

from tfadv.experiments.recipe import REFERENCE, Recipe


def _defense(name: str, title: str) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        stage="retrain",
        start=REFERENCE,
        objective=name,
        augment=True,
        balance=True,
        epochs="defense_epochs",
        weight_decay="defense_weight_decay",
    )


NFGSM = _defense("nfgsm", "N-FGSM")
RSFGSM = _defense("rsfgsm", "RS-FGSM")
PGD = _defense("pgd", "PGD training")
TRADES = _defense("trades", "TRADES")
MART = _defense("mart", "MART")
