"""The attacks of common corruptions: one corruption at one severity, and `corruptions`, many sets of images."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfadv.attacks.base import Attack, Call
from tfadv.attacks.corruptions import blur, digital, noise, weather
from tfadv.attacks.corruptions.constants import BENCHMARK, NAMES, SEVERITIES, constants, source
from tfadv.attacks.corruptions.operations import Draws, levels
from tfadv.specs import setting

_AT_ONCE = 2**20  # values of the images that are corrupted at once: blurs take dozens of times as much memory
_STREAMS = 2**8  # of random numbers for each corruption
_MASK = 2**64 - 1


def corrupt(
    x: tf.Tensor, name: str, severity: int, seed: int = 0, numbers: tf.Tensor | np.ndarray | None = None
) -> tf.Tensor:
    """Corrupted images, compiled; the severities of a corruption share an image's random numbers.

    Args:
      x: float32 (N, H, W, C) in [0, 1]; C is 1 or 3.
      name: one of `tfadv.attacks.corruptions.constants.NAMES`.
      severity: 1 to 5.
      seed: int, for random numbers.
      numbers: int64 (N,), the numbers of the images, from which their random numbers are drawn; None is 0, 1, … N - 1.

    Returns:
      float32 (N, H, W, C), multiples of 1 / 255 from 0 to 1.

    Raises:
      ValueError: the images are neither gray nor of three colors.
    """
    shape = tuple(x.shape[1:])
    if shape[2] not in (1, 3):
        raise ValueError(f"corruptions are of gray images or of three colors, not of {shape[2]} channels.")
    numbers = np.arange(len(x)) if numbers is None else numbers
    function, parts = _compiled(name, severity, shape), [tf.zeros((0, *shape), tf.uint8)]
    key = tf.constant(np.array(seed & _MASK, np.uint64).astype(np.int64))
    at_once = max(1, _AT_ONCE // math.prod(shape))
    for start in range(0, len(x), at_once):
        rows = slice(start, start + at_once)
        parts.append(function(x[rows], key, tf.cast(numbers[rows], tf.int64)))
    return tf.cast(tf.concat(parts, axis=0), tf.float32) / 255.0  # outside of a graph, which would multiply


@functools.lru_cache(maxsize=512)
def _compiled(name: str, severity: int, shape: tuple[int, int, int]) -> Callable[..., tf.Tensor]:
    """A function of (images float32 (N, H, W, C), seed int64 (), numbers int64 (N,)) → uint8 (N, H, W, C)."""
    values = constants(name, severity, min(shape[:2]))
    signature = [tf.TensorSpec((None, *shape)), tf.TensorSpec((), tf.int64), tf.TensorSpec((None,), tf.int64)]
    # TensorFlow tells functions apart by their code, see `PerModel`; a partial has none.
    call = functools.partial(_corrupted, _function(name), values, _STREAMS * NAMES.index(name))
    return tf.function(call, input_signature=signature, autograph=False)


def _corrupted(
    function: Callable[..., tf.Tensor], values: tuple, first: int, x: tf.Tensor, seed: tf.Tensor, numbers: tf.Tensor
) -> tf.Tensor:
    return tf.cast(levels(function(x, Draws(seed, numbers, first), *values)), tf.uint8)


def _function(name: str) -> Callable[..., tf.Tensor]:
    return next(getattr(module, name) for module in (noise, blur, weather, digital) if hasattr(module, name))


class _Corrupting(Attack):
    """An attack that corrupts images, whatever the model."""

    has_eps = False
    uses_gradient = False

    def settings_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """See `Attack.settings_for`."""
        return {**self.settings(), "constants": source(min(shape[:2]))}


@dataclasses.dataclass(frozen=True)
class Corruption(_Corrupting):
    """One of the common corruptions of Hendrycks and Dietterich 2019 (https://arxiv.org/abs/1903.12261).

    It does not look at the model, and has no eps.

    Attributes:
      corruption: which one.
      severity: 1 to 5.
    """

    corruption: str = setting(NAMES[0], choices=NAMES)
    severity: int = setting(3, least=1, most=5)

    @property
    def name(self) -> str:
        """See `Spec.name`."""
        return self.corruption

    @property
    def sets(self) -> tuple[Attack, ...]:
        """See `Attack.sets`."""
        return (self,)

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """See `Attack.attack_batch`."""
        low, high = call.clip
        images = corrupt((x - low) / (high - low), self.corruption, self.severity, call.seed, call.numbers)
        return tf.clip_by_value(low + (high - low) * images, low, high)[None]

    def _defaults(self) -> Corruption:
        return Corruption(self.corruption)


@dataclasses.dataclass(frozen=True)
class Corruptions(_Corrupting):
    """Several corruptions, each at five severities: as many sets of images, which `tfadv.evaluate` makes one by one.

    The default is the benchmark of Hendrycks and Dietterich 2019 (https://arxiv.org/abs/1903.12261) without frost,
    whose textures are files: 14 corruptions, 70 sets.

    Attributes:
      corruptions: which ones.
    """

    corruptions: tuple[str, ...] = setting(BENCHMARK, choices=NAMES)

    @property
    def sets(self) -> tuple[Attack, ...]:
        """See `Attack.sets`."""
        return tuple(Corruption(name, severity) for name in self.corruptions for severity in SEVERITIES)

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """There is no single image that answers a call."""
        raise ValueError("corruptions makes many sets of images: call tfadv.evaluate, or one such as fog(severity=3).")


def __getattr__(name: str) -> Any:
    """The attack of a name such as "fog", a function of its settings."""
    if name in NAMES:
        return functools.partial(Corruption, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
