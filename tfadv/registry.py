"""Tables of named things: attacks, data sets, models, defenses and report formats."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tfadv.errors import check_name


class Registry(Mapping[str, Any]):
    """A mapping from names to objects, which may be loaded on first use.

    An entry is the object itself or a string `"module:attribute"`, which is
    imported when it is first looked up.  Tables of strings can be read, and
    names checked, without loading TensorFlow.
    """

    def __init__(self, kind: str, entries: Mapping[str, Any]) -> None:
        """`kind`: what the entries are, for error messages, such as "attack"."""
        self._kind = kind
        self._entries = dict(entries)

    def register(self, name: str, entry: Any) -> None:
        """Adds an entry.

        Raises:
          ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self._kind} {name!r} is registered already.")
        self._entries[name] = entry

    def check(self, name: str) -> None:
        """Raises UserError, with the nearest known name, where there is no such entry."""
        check_name(self._kind, name, self._entries)

    def __getitem__(self, name: str) -> Any:
        """The entry of that name; raises UserError, with the nearest known name, where there is none."""
        self.check(name)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, attribute = entry.split(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
