"""Accuracy on clean images and under attack, certified radii, and whether to trust a robust accuracy."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "evaluate": "evaluator",
    "Execution": "evaluator",
    "Result": "result",
    "Certificate": "certificate",
    "certify": "smoothing",
    "DiagnosticSettings": "masking",
    "check_gradient_masking": "masking",
    "run_checks": "checks",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tfadv.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
