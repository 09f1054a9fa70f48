"""tfadv measures and improves the robustness of Keras image classifiers to adversarial examples.

    import tfadv                                     # before TensorFlow

    x_adv = tfadv.attacks.PGD(steps=50)(model, x, y, eps=8 / 255)
    result = tfadv.evaluate(model, x, y, "autoattack", eps=8 / 255)
    robust = tfadv.AdversarialModel(model, defense="nfgsm", eps=8 / 255)  # compile and fit are those of Keras

Importing tfadv enables oneDNN for TensorFlow on CPUs, unless
`TF_ENABLE_ONEDNN_OPTS` is set.  oneDNN was about ten times faster on the
machines tried; TensorFlow itself leaves it off on CPUs without AVX-512.
TensorFlow reads the variable when it is imported, so import tfadv first.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

__version__ = "0.3.0"
RESULTS = 1  # the version of the results: what was computed by another one is computed again

_MODULES = ("attacks", "datasets", "defenses", "evaluation", "explanation", "models", "training")
_HOMES = {
    "AdversarialModel": "training.adversarial_model",
    "CatastrophicOverfitting": "training.callbacks",
    "Certificate": "evaluation.certificate",
    "Result": "evaluation.result",
    "RobustAccuracy": "training.callbacks",
    "WeightAverage": "training.callbacks",
    "certify": "evaluation.smoothing",
    "check_gradient_masking": "evaluation.masking",
    "classifier": "models.logits",
    "deployed": "models.deployed",
    "ensemble": "models.ensemble",
    "evaluate": "evaluation.evaluator",
    "expectation": "models.expectation",
    "explain": "explanation",
}
__all__ = list(_MODULES) + list(_HOMES)

if "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
    if "tensorflow" in sys.modules:
        warnings.warn(
            "TensorFlow was imported before tfadv, so oneDNN may be off and CPUs slow: "
            "import tfadv first, or set TF_ENABLE_ONEDNN_OPTS=1 yourself.",
            stacklevel=2,
        )
    else:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"


def __getattr__(name: str) -> Any:
    """Loads submodules and functions on first use, so that `import tfadv` does not load TensorFlow."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
