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


def checked_shape(label: str, shape: Any) -> tuple[int | None, ...]:
    """(H, W, C) of the shape (N, H, W, C) that a model takes; None for sizes that are open.

    Raises:
      UserError: these are no images.
    """
    found = tuple(None if size is None or size < 0 else int(size) for size in shape)
    if len(found) != 4 or found[3] not in CHANNELS:
        raise UserError(f"{label} takes {tuple(shape)}: it must be images (N, H, W, C) with one or three channels.")
    return found[1:]
