"""Errors for people: one line that names the cause and the way out."""

import difflib


class UserError(Exception):
    """Something the person at the keyboard can mend; `main` prints it as one line and exits with 1."""


def check_name(kind, name, known):
    """Raises UserError, with the nearest valid name, unless `name` is one of `known`."""
    if name in known:
        return
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise UserError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}.")
