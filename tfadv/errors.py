"""Errors for users: one line that states the cause and what to do."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """An error that the user can resolve; `main` prints it as one line and exits with status 1."""


def check_name(kind: str, name: str, known: Iterable[str], most: int | None = None) -> None:
    """Checks that a name is a known one.

    Args:
      kind: what the name stands for, such as "attack", for the error message.
      name: the name to check.
      known: all valid names.
      most: how many of them, the first ones, the message lists; None lists all.

    Raises:
      UserError: `name` is not one of `known`; the message suggests the most similar one.
    """
    known = list(known)
    if name in known:
        return
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    raise UserError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known[:most])}{', …' if most else ''}.")


def check_whole_number(name: str, value: Any, least: int | None = None) -> None:
    """Raises ValueError where an argument of this name is not a whole number, or is below the least."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}.")
