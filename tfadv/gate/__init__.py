"""Requirements on accuracies, such as "autoattack@8/255>=0.4", and whether results meet them.

Intervals decide, not the accuracies themselves.  An attack that is weaker than AutoAttack can show that a requirement
is not met, never that it is.
"""

from __future__ import annotations

from tfadv.gate.decision import FAILED, PASSED, UNDECIDED, Decision, decide, exit_code, is_decided
from tfadv.gate.output import junit, markdown
from tfadv.gate.requirement import Requirement, about, check, is_under, requirements

__all__ = [
    "FAILED",
    "PASSED",
    "UNDECIDED",
    "Decision",
    "Requirement",
    "about",
    "check",
    "decide",
    "exit_code",
    "is_decided",
    "is_under",
    "junit",
    "markdown",
    "requirements",
]
