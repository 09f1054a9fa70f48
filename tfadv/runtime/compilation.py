"""How models are compiled: XLA or not, optimized clones or not; one choice for the whole process.

The environment variables TFADV_XLA ("true" or "false") and TFADV_ACCELERATE ("off") choose otherwise than tfadv.
"""

from __future__ import annotations

import dataclasses
import os

import tensorflow as tf


@dataclasses.dataclass
class _Choice:
    jit_compile: str = os.environ.get("TFADV_XLA", "auto")
    accelerate: str = os.environ.get("TFADV_ACCELERATE", "auto")


_choice = _Choice()


def configure(*, jit_compile: str = "auto", accelerate: str = "auto") -> None:
    """Chooses how training, attacks and evaluations are compiled from now on.

    Args:
      jit_compile: "auto" (XLA on a GPU; not on a CPU, where oneDNN is far faster), "true" or "false".
      accelerate: "auto" (optimized clones, see `tfadv.models.accelerate`) or "off" (Keras' own layers).
    """
    _choice.jit_compile, _choice.accelerate = jit_compile, accelerate


def use_xla() -> bool:
    """Whether to compile with XLA."""
    if _choice.jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return _choice.jit_compile == "true"


def use_accelerated() -> bool:
    """Whether to compute models by their optimized clones."""
    return _choice.accelerate != "off"
