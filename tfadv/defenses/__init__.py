"""Defenses: how the weights of a model come to be; one file per kind of defense.

Importing this package does not load TensorFlow; the defenses are loaded when they are first used.
"""

from __future__ import annotations

from tfadv.registry import Registry

DEFENSES = Registry(
    "defense",
    {
        "baseline": "tfadv.paper:Baseline",
        "augmented": "tfadv.paper:Augmented",
        "retrained": "tfadv.paper:Retrained",
        "original": "tfadv.defenses.clean:Original",
        "control": "tfadv.defenses.clean:Control",
        "surrogate": "tfadv.defenses.stored:Surrogate",
        "rounds": "tfadv.defenses.stored:Rounds",
        "nfgsm": "tfadv.defenses.nfgsm:NFGSM",
        "rsfgsm": "tfadv.defenses.rsfgsm:RSFGSM",
        "pgd": "tfadv.defenses.pgd:PGD",
        "trades": "tfadv.defenses.trades:TRADES",
        "mart": "tfadv.defenses.mart:MART",
        "gaussian": "tfadv.defenses.gaussian:Gaussian",
    },
)
FIRST = ("baseline", "original")  # those that the others start from
