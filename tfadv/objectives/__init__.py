"""The table of training objectives; no TensorFlow here.

An objective says what training minimizes, see `tfadv.objectives.base.Objective`.
A new objective is one file and one entry.
"""

from __future__ import annotations

from tfadv.registry import Registry

AFFECTS_RESULTS = False  # artifacts depend on the module of their objective

OBJECTIVES = Registry(
    "objective",
    {
        "cross_entropy": "tfadv.objectives.cross_entropy:CrossEntropy",
        "nfgsm": "tfadv.objectives.nfgsm:NFGSM",
        "rsfgsm": "tfadv.objectives.rsfgsm:RSFGSM",
        "pgd": "tfadv.objectives.pgd:PGDTraining",
        "trades": "tfadv.objectives.trades:TRADES",
        "mart": "tfadv.objectives.mart:MART",
    },
)
