"""Values written as text: attacks and defenses such as "pgd(steps=50)", numbers such as "8/255", image sizes.

Needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfadv.errors import UserError, check_name
from tfadv.registry import Registry

if TYPE_CHECKING:
    from tfadv.attacks.base import Attack

_MAX_INT = 2**31 - 1
_SPEC = re.compile(r"\s*([\w.+-]+)\s*(?:\(([^()]*)\))?\s*(?:@([^,()@]*))?(,|$)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FRACTION = re.compile(rf"\s*{_NUMBER.pattern}\s*(?:/\s*{_NUMBER.pattern}\s*)?")
_SIZE = re.compile(r"([0-9]{1,6})(?:\s*[xX×]\s*([0-9]{1,6}))?")
_WORDS = {"true": True, "false": False, "none": None}
_ELSEWHERE = {  # setting → its names in torchattacks, Foolbox, ART, CleverHans and auto-attack
    "queries": ("n_queries", "max_queries", "num_queries", "nb_queries"),
    "steps": (
        *("iterations", "iters", "n_iter", "nb_iter", "max_iter", "num_steps", "nb_steps", "num_iter", "niter"),
        *("n_queries", "max_queries", "num_queries", "nb_queries", "queries"),
    ),
    "step_size": ("alpha", "eps_iter", "eps_step", "rel_stepsize", "abs_stepsize", "stepsize", "lr", "learning_rate"),
    "restarts": ("n_restarts", "num_random_init", "num_restarts", "nb_restarts", "random_restarts"),
    "random_start": ("rand_init", "random_init", "rand_start"),
    "targets": ("n_target_classes", "n_targets", "num_targets"),
    "loss": ("loss_fn", "loss_type", "criterion"),
    "norm": ("ord", "p", "lp"),
    "decay": ("momentum", "mu", "decay_factor"),
    "diversity": ("diversity_prob", "prob"),
    "kernel": ("kernel_size", "len_kernel"),
    "scales": ("num_scale", "n_scales"),
    "neighbours": ("num_neighbor", "neighbors", "n_neighbors"),
    "blocks": ("num_block", "n_blocks"),
}
_FORM = "write name or name(setting=value,...), separated by commas"


def split_specs(text: str, known: Registry) -> list[tuple[str, dict[str, Any]]]:
    """Splits a list into names and settings; checks the names but not the settings.

    Args:
      text: entries separated by commas, each a name or name(setting=value,...).  A value is a number, a fraction such
        as 2/255, true, false, none, or a word; words or numbers joined by + are several.
      known: the table of names.

    Returns:
      A pair (name, settings) for each entry; none for an empty text.

    Raises:
      UserError: the text does not follow the form, or a name is unknown.
    """
    found = split_sized(text, known)
    for name, _, sizes in found:
        if sizes:
            raise UserError(f"cannot read {text!r}: a size, as in {name}@0.5, is for attacks of a run only.")
    return [(name, settings) for name, settings, _ in found]


def split_sized(text: str, known: Registry) -> list[tuple[str, dict[str, Any], tuple[float, ...]]]:
    """As `split_specs`, of entries that may end in @size or @size+size, such as "pgd(norm=l2)@0.5".

    Returns:
      A triple (name, settings, sizes) for each entry; without @, sizes is empty.

    Raises:
      UserError: as `split_specs`, or a size is not a number.
    """
    specs: list[tuple[str, dict[str, Any], tuple[float, ...]]] = []
    position = 0
    while text.strip():
        match = _SPEC.match(text, position)
        if not match:
            raise UserError(f"cannot read {text!r} from {text[position:]!r} on: {_FORM}.")
        name, settings, sizes, separator = match.groups()
        if specs and _FRACTION.fullmatch(name):
            raise UserError(f"cannot read {text!r} from {name!r} on: join sizes by +, as in {specs[-1][0]}@0.1+{name}.")
        name = next((own for own in known if own.lower() == name.lower()), name)
        known.check(name)
        numbers = () if sizes is None else tuple(sorted({number(size.strip()) for size in sizes.split("+")}))
        specs.append((name, _split_settings(name, settings) if settings else {}, numbers))
        position = match.end()
        if not separator:
            break
    return specs


def _split_settings(name: str, text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in text.split(",") if text.strip() else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and equals):
            raise UserError(f"cannot read {part.strip()!r} in {name}({text}): {_FORM}.")
        if key in settings:
            raise UserError(f"{key} is given twice in {name}({text}): leave one out.")
        settings[key] = _value(key, value)
    return settings


def _value(key: str, text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _FRACTION.fullmatch(text):
        try:
            return int(text) if text.lstrip("+-").isdigit() else number(text)
        except (UserError, ValueError):
            raise UserError(f"{key}={text}: this number cannot be represented.") from None
    if re.fullmatch(r"[A-Za-z][\w+-]*", text):
        return text
    parts = text.split("+")
    if all(_FRACTION.fullmatch(part) for part in parts):
        return tuple(map(number, parts))
    raise UserError(f"cannot read the value of {key}={text}: it is a number, 2/255, true, false, none or a word.")


def number(text: str) -> float:
    """A number, or a fraction such as "8/255", as a float.

    Raises:
      UserError: the text is neither, or the number is too large or divides by zero.
    """
    if not _FRACTION.fullmatch(text):
        raise UserError(f"{text!r} is not a number: write one such as 0.03, or a fraction such as 8/255.")
    above, _, below = text.partition("/")
    try:
        value = float(above) / float(below or 1)
    except ZeroDivisionError:
        raise UserError(
            f"{text!r} divides by zero: write a number such as 0.03, or a fraction such as 8/255."
        ) from None
    if not math.isfinite(value):
        raise UserError(f"{text!r} is too large a number: write one such as 0.03, or a fraction such as 8/255.")
    return value


def size(text: str) -> int | str:
    """The size of images: "96" and "96x96" → 96, the side of a square; "24x40" → "24x40", height and width.

    Raises:
      UserError: the text has another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UserError(
            f"{text!r} is not a size: write the side of a square such as 96, or HEIGHTxWIDTH such as 24x40."
        )
    height, width = int(match[1]), int(match[2] or match[1])
    return height if height == width else f"{height}x{width}"


def sides(size: int | str) -> tuple[int, int]:
    """(height, width) of a size as `size` returns it: 96 → (96, 96), "24x40" → (24, 40)."""
    height, width = (size, size) if isinstance(size, int) else size.split("x")
    return int(height), int(width)


def label(name: str, settings: Mapping[str, Any]) -> str:
    """The text that `split_specs` reads as this name with these settings: "pgd(restarts=5, steps=50)"."""
    texts = [f"{key}={_text(settings[key])}" for key in sorted(settings)]
    return f"{name}({', '.join(texts)})" if texts else name


def at(sizes: Iterable[float]) -> str:
    """What `split_sized` reads as these sizes, behind an attack: "@0.25+0.5"; "" without any."""
    text = "+".join(f"{size:g}" for size in sizes)
    return f"@{text}" if text else ""


def folder_name(text: str) -> str:
    """A name for the disk: other characters replaced, and where there are any, a hash that keeps names distinct."""
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", text).strip("_")
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return (
        {None: "none", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def setting(
    default: Any,
    *,
    choices: Iterable[str] | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a `Spec` with the values that it accepts.

    Args:
      default: its default.
      choices: names, for a str.
      least: the smallest number.
      above: a number that the setting must exceed.
      most: the largest number.
    """
    metadata = {"choices": choices, "least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Something with a name and settings, which can be written as text: an attack or a defense.

    The fields are the settings; their types, and the values that `setting` declares, are checked.

    Raises:
      ValueError: a setting has the wrong type or is out of range.
      UserError: the name of a choice is unknown; the message suggests the nearest one.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    @property
    def name(self) -> str:
        """The name in the table of attacks or defenses."""
        return type(self).__name__.lower()

    @property
    def label(self) -> str:
        """The name and the settings that differ from its defaults: "pgd(restarts=5, steps=50)"."""
        defaults, own = self._defaults().settings(), self.settings()
        return label(self.name, {key: value for key, value in own.items() if value != defaults[key]})

    def settings(self) -> dict[str, Any]:
        """All settings as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def _defaults(self) -> Spec:
        """The same with its default settings."""
        return type(self)()


def build_with(name: str, settings: Mapping[str, Any], table: Registry) -> Any:
    """The entry of a table, called with settings.

    Raises:
      UserError: the name is unknown, or a setting is unknown, has the wrong type or is out of range.
    """
    factory = table[name]
    accepted = [key for key in inspect.signature(factory).parameters if key != "targeted"]
    listing = f"{name} accepts {', '.join(accepted)}" if accepted else f"{name} has no settings"
    if "targeted" in settings:
        raise UserError(f"{name}(targeted=...): attacks on given target classes run only from Python; {listing}.")
    for key in settings:
        if key not in accepted:
            raise UserError(f"{name} has no setting {key!r}: {_other_name(key, accepted)}{listing}.")
    try:
        return factory(**settings)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{name}: {error} {listing}.") from None


def _other_name(key: str, accepted: Sequence[str]) -> str:
    """What a setting that other libraries have is called here, or the most similar name; "" where there is none."""
    here = next((own for own, others in _ELSEWHERE.items() if key.lower() in others and own in accepted), None)
    if here:
        return f"what other libraries call {key} is {here} here. "
    if key.lower() in ("eps", "epsilon", "epsilons"):
        return "the eps of a run is given beside the attack, and not in its settings. "
    similar = difflib.get_close_matches(key.lower(), accepted, n=1, cutoff=0.7)
    return f"did you mean {similar[0]!r}? " if similar else ""


def build(name: str, settings: dict[str, Any], attacks: Registry) -> Attack:
    """An attack by name and settings.

    Raises:
      UserError: as `build_with`, or the settings make it an attack of another name.
    """
    attack = build_with(name, settings, attacks)
    if attack.name != name == attacks[name]().name:
        raise UserError(f"{name}: with these settings it is another attack, {attack.label}.")
    if attack.name not in attacks:
        raise UserError(f"{name}: its property `name` is {attack.name!r}, but must be the name that is registered.")
    return attack


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """The value of a setting, checked against its type and its `setting`."""
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    name, limits = field.name, {"choices": None, "least": None, "above": None, "most": None, **field.metadata}
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        value = tuple(value.split("+")) if isinstance(value, str) else tuple(map(str, value))
        if not value:
            raise ValueError(f"{name} must not be empty.")
        for item in value if limits["choices"] else ():
            check_name(name.removesuffix("s"), item, limits["choices"])
        return value
    if kind.startswith("str"):
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a word, got {value!r}.")
        if limits["choices"]:
            value = next((own for own in limits["choices"] if own.lower() == value.lower()), value)
            check_name(name, value, limits["choices"])
        return value
    if kind.startswith("bool"):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be true or false, got {value!r}.")
        return bool(value)
    if isinstance(value, (list, tuple)) and len(value) and "tuple[float" in kind:
        value = tuple(_checked_number(name, each, False, limits) for each in value)
        return value if len(value) > 1 else value[0]
    if kind.startswith(("int", "float")):
        return _checked_number(name, value, kind.startswith("int"), limits)
    return value


def _checked_number(name: str, value: Any, whole: bool, limits: Mapping[str, Any]) -> int | float:
    least, above, most = limits["least"], limits["above"], limits["most"]
    expected = "a whole number" if whole else "a finite number"
    expected += "" if least is None else f" of at least {least}"
    expected += "" if above is None else f" above {above}"
    expected += "" if most is None else f"{' and' if expected[-1].isdigit() else ' of'} at most {most}"
    valid = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    valid = valid and abs(value) <= _MAX_INT and math.isfinite(value) and not (whole and value != int(value))
    in_range = valid and (least is None or value >= least) and (above is None or value > above)
    if not in_range or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}, got {value}.")
    return int(value) if whole else float(value)
