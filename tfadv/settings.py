"""Settings as the fields of a dataclass: each is declared once, and its check, flag and help text follow from it."""

from __future__ import annotations

import dataclasses
import math
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from absl import flags

from tfadv import specs
from tfadv.errors import UserError, check_name


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting accepts; always finite.

    Attributes:
      least: the smallest accepted number.
      most: the largest accepted number.
      above: whether `least` itself is excluded.
      zero: what 0 means where it is accepted beside the range; "" where it is not.
      unit: what is counted, for messages, such as "pixels".
      example: a number as it may be written; "" shows none.
    """

    least: float
    most: float = math.inf
    above: bool = False
    zero: str = ""
    unit: str = ""
    example: str = ""

    def accepts(self, value: float) -> bool:
        """Whether the number is in the range."""
        if self.zero and value == 0:
            return True
        low_enough = math.isfinite(value) and value <= self.most
        return low_enough and (value > self.least if self.above else value >= self.least)

    def __str__(self) -> str:
        text = f"{'above' if self.above else 'at least'} {self.least:g}"
        if self.most < math.inf:
            text += f" and at most {self.most:.10g}"
        if self.unit:
            text += f" {self.unit}"
        if self.example:
            text += f", such as {self.example}"
        return text + (f", or 0 ({self.zero})" if self.zero else "")


@dataclasses.dataclass(frozen=True)
class Names:
    """The names that a setting accepts.

    Attributes:
      kind: what is named, for messages, such as "dataset".
      known: the names, or a function that returns them for the settings given so far (an object with
        their fields), where they depend on another setting or on what plugins register.
      checked: whether a value must be one of the names; otherwise they are only listed in `--help`.
    """

    kind: str
    known: tuple[str, ...] | Callable[[Any], Iterable[str]]
    checked: bool = True

    def available(self, config: Any) -> tuple[str, ...]:
        """Returns the accepted names."""
        return tuple(self.known(config)) if callable(self.known) else self.known


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of images that a setting accepts: an int for squares, or a text such as "24x40" (`tfadv.specs.size`).

    Attributes:
      side: what height and width each accept.
    """

    side: Range

    def accepts(self, value: int | str) -> bool:
        """Whether both sides are accepted; where 0 has a meaning, for both together only."""
        height, width = specs.sides(specs.size(str(value)))
        return self.side.accepts(height) and self.side.accepts(width) and (height == 0) == (width == 0)

    def __str__(self) -> str:
        return f"{self.side}; a square such as 96, or HEIGHTxWIDTH such as 24x40"


Accepted: TypeAlias = Range | Size | Names | None


@dataclasses.dataclass(frozen=True)
class Setting:
    """How one field is explained and checked; see `setting`."""

    help: str
    group: str
    accepts: Accepted
    required: bool
    rare: bool


def setting(
    default: Any, help: str, *, group: str, accepts: Accepted = None, required: bool = False, rare: bool = False
) -> Any:
    """Declares a setting, as the default of a dataclass field.

    Args:
      default: str, int, float, bool, or a tuple of str or float; the flag takes the same type.
      help: one or two sentences.
      group: the heading under which `--help` lists it.
      accepts: the numbers or names that are accepted, each element on its own for a tuple; None: anything.
      required: whether an empty text or tuple is refused.
      rare: whether only `--helpfull` shows it.
    """
    return dataclasses.field(default=default, metadata={"setting": Setting(help, group, accepts, required, rare)})


def settings_of(config: Any) -> Iterator[tuple[str, Any, Setting]]:
    """Yields (name, default, `Setting`) of each setting of a dataclass or one of its objects, in order."""
    for field in dataclasses.fields(config):
        yield field.name, field.default, field.metadata["setting"]


def check(config: Any) -> None:
    """Checks each setting of an object by itself.

    Raises:
      UserError: a value is not accepted; names the flag and what it accepts.
    """
    for name, default, declared in settings_of(config):
        value = getattr(config, name)
        several = isinstance(default, tuple)
        if several != isinstance(value, tuple):
            raise UserError(f"{name} is {value!r}: it must be {'a tuple' if several else 'one value'}.")
        if declared.required and not value:
            raise UserError(f"--{name} is empty: {_wanted(declared.accepts, config)}.")
        if several and len(set(value)) < len(value):
            raise UserError(f"--{name} names a value twice: {', '.join(map(str, value))}.")
        for element in value if several else (value,):
            if isinstance(declared.accepts, Names) and declared.accepts.checked and (element or several):
                check_name(declared.accepts.kind, element, declared.accepts.available(config))
            elif isinstance(declared.accepts, Range | Size) and not declared.accepts.accepts(element):
                verb, subject = ("has", "each") if several else ("is", "it")
                raise UserError(f"--{name} {verb} {element}: {subject} must be {declared.accepts}.")


def _wanted(accepts: Accepted, config: Any) -> str:
    if isinstance(accepts, Names):
        return f"give at least one of {', '.join(accepts.available(config))}"
    if isinstance(accepts, Range):
        return f"give at least one number, {accepts}"
    return "it must have a value"


def define_flags(settings: type, values: flags.FlagValues) -> None:
    """Defines a flag for each setting of a dataclass; `read_flags` reads fractions and sizes from the texts."""
    for name, default, declared in settings_of(settings):
        keywords: dict[str, Any] = {"help": declared.help, "flag_values": values}
        if isinstance(default, tuple):
            flags.DEFINE_list(name, [str(element) for element in default], **keywords)
        elif isinstance(default, bool):
            flags.DEFINE_boolean(name, default, **keywords)
        elif isinstance(default, int) and not isinstance(declared.accepts, Size):
            flags.DEFINE_integer(name, default, **keywords)
        else:
            flags.DEFINE_string(name, str(default), **keywords)


def read_flags(settings: type, values: flags.FlagValues) -> dict[str, Any]:
    """Returns the values of the flags of `define_flags`, by the name of the setting.

    Raises:
      UserError: what should be a number or a size is none.
    """
    read = {}
    for name, default, declared in settings_of(settings):
        value: Any = values[name].value
        try:
            if isinstance(declared.accepts, Size):
                value = specs.size(value)
            elif isinstance(default, float):
                value = specs.number(value)
            elif isinstance(default, tuple):
                numbers = bool(default) and isinstance(default[0], float)
                value = tuple(specs.number(element) if numbers else element for element in value)
        except UserError as error:
            raise UserError(f"--{name}={','.join(value) if isinstance(value, list) else value}: {error}") from None
        read[name] = value
    return read


def flag_lines(config: Any) -> str:
    """Returns the settings of an object as the text of a flagfile, one flag per line."""
    lines = []
    for name, default, _ in settings_of(config):
        value = getattr(config, name)
        if isinstance(default, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        else:
            lines.append(f"--{name}={','.join(map(str, value)) if isinstance(default, tuple) else value}")
    return "\n".join(lines) + "\n"


def describe(settings: type, chosen: Mapping[str, Any], *, everything: bool = True, width: int = 100) -> str:
    """Returns the help text of all settings, grouped, each with its default and what it accepts.

    Args:
      settings: a dataclass of settings.
      chosen: the values given so far, by name; names that depend on another setting follow from them.
      everything: whether settings that are rarely needed are shown.
      width: the longest line, in characters.
    """
    groups: dict[str, list[str]] = {}
    rare = {name for name, _, declared in settings_of(settings) if declared.rare and not everything}
    for group, name, flag, text in explained(settings, chosen):
        if name in rare:
            continue
        entry = textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
        groups.setdefault(group, []).append(f"  {flag}\n{entry}")
    return "\n\n".join(f"{group}\n" + "\n".join(entries) for group, entries in groups.items())


def explained(settings: type, chosen: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yields (group, name, flag with its default, explanation) of each setting; arguments as for `describe`."""
    for name, default, declared in settings_of(settings):
        text = declared.help
        if isinstance(declared.accepts, Names):
            known = ", ".join(declared.accepts.available(types.SimpleNamespace(**chosen))) or "(none registered)"
            several = isinstance(default, tuple) or not declared.accepts.checked
            text += f" {'Any of' if several else 'One of'}: {known}."
        elif isinstance(declared.accepts, Range | Size):
            text += f" {'Each' if isinstance(default, tuple) else 'Accepts'}: {declared.accepts}."
        yield declared.group, name, _flag_text(name, default), text


def _flag_text(name: str, default: Any) -> str:
    """The flag with its default, as it would be written."""
    if isinstance(default, bool):
        return f"--{name}, --no{name} (default: {'on' if default else 'off'})"
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"--{name}={text}" if text else f"--{name}= (default: empty)"
