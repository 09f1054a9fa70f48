"""The table of training objectives; no TensorFlow here.

An objective says what training minimizes.  It is a function
`objective(model, x, y) -> (losses, logits)` of a callable model, float32 images
(N, H, W, C) in [0, 1] and int64 labels (N,), which calls `model(x, training=True)`
once and returns the loss of each image, float32 (N,), and the logits, float32
(N, K).  One that attacks the images, or has settings, is a class:
`tfadv.objectives.base.Objective`.  A new objective is one file and one entry.
"""

from __future__ import annotations

from tfadv.registry import Registry

AFFECTS_RESULTS = False  # artifacts depend on the module of their objective

# How the eps of a training run changes: "ramp" is `tfadv.training.schedule.delayed_ramp`, "fixed" is the same in all
# steps, and "uniform" is drawn for each image, up to the largest.
EPS_SCHEDULES = ("ramp", "fixed", "uniform")

OPTIMIZERS = ("sgd", "adam")
# How defenses train, from Python and from the command line; measured on seven architectures: docs/defenses.md.
DEFENSE_OPTIMIZER = "adam"
DEFENSE_LEARNING_RATE = 1e-3
DEFENSE_WEIGHT_DECAY = 5e-3

OBJECTIVES = Registry(
    "objective",
    {
        "cross_entropy": "tfadv.objectives.cross_entropy:cross_entropy",
        "nfgsm": "tfadv.objectives.nfgsm:NFGSM",
        "rsfgsm": "tfadv.objectives.rsfgsm:RSFGSM",
        "free": "tfadv.objectives.free:FreeTraining",
        "ensemble": "tfadv.objectives.ensemble:Ensemble",
        "pgd": "tfadv.objectives.pgd:PGDTraining",
        "trades": "tfadv.objectives.trades:TRADES",
        "mart": "tfadv.objectives.mart:MART",
        "hat": "tfadv.objectives.hat:HAT",
    },
)
