"""What every model that is deployed can do: `Predictor`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfadv.errors import UserError

CHANNELS = (1, 3)
MOST_AT_ONCE = 256  # images


class Predictor:
    """A function from float32 images (N, H, W, C), in the pixels that the model expects, to its outputs.

    Attributes:
      label: the name in messages.
      image_shape: (H, W, C); H and W are None where the model takes any size.
      output_step: the distance of two neighbouring outputs of a quantized model; 0 of others.
    """

    label: str
    image_shape: Any
    output_step: float = 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """One row of outputs per image, or one class number."""
        raise NotImplementedError


def checked_shape(label: str, shape: Any, given: Any = None) -> tuple[int | None, ...]:
    """(H, W, C) of the shape (N, H, W, C) that a model takes.

    Args:
      label: the name in messages.
      shape: what the model says; None or -1 for a size that is open.
      given: (H, W, C), the sizes in place of open ones; None leaves them open.

    Raises:
      UserError: these are no images.
    """
    found = tuple(None if size is None or size < 0 else int(size) for size in shape)
    if len(found) != 4 or found[3] not in CHANNELS:
        takes = ", ".join("any" if size is None else str(size) for size in found)
        raise UserError(f"{label} takes ({takes}): it must be images (N, H, W, C) with one or three channels.")
    return tuple(size or other for size, other in zip(found[1:], given or found[1:]))
