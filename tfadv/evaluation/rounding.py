"""Adversarial images as a file of 8 bits holds them: whole grey levels from 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np

_TOLERANCE = 1e-3  # grey levels, for the rounding of float32


def has_8_bits(images: np.ndarray) -> bool:
    """Whether images, float32 in [0, 1], have whole grey levels."""
    levels = 255 * images
    return bool((np.abs(levels - np.rint(levels)) <= _TOLERANCE).all())


def rounded(adversarial: np.ndarray, images: np.ndarray, eps: float, norm: str = "linf") -> np.ndarray:
    """Adversarial images with whole grey levels, still within eps.

    The nearest grey level where that is within eps, otherwise the next one towards the original image: in L∞ pixel by
    pixel, in L2 and L1 for all pixels of an image, which then moves by less.  Rounding changes no further pixel, so it
    keeps within counts of them.

    Args:
      adversarial: float32 (N, H, W, C) in [0, 1], within eps of the images.
      images: the original ones, float32 (N, H, W, C), with whole grey levels.
      eps: the size of the perturbation, for pixels in [0, 1].
      norm: a key of `tfadv.attacks.norms.DISTANCES`.

    Returns:
      float32 (N, H, W, C).
    """
    levels = np.rint(255 * images)
    change = 255 * adversarial - levels
    nearest = np.rint(change)
    pixels: dict[str, Any] = {"axis": (1, 2, 3), "keepdims": True}
    size = {
        "linf": np.abs(nearest),
        "l2": np.sqrt(np.square(nearest).sum(**pixels)),
        "l1": np.abs(nearest).sum(**pixels),
        **dict.fromkeys(("l0", "pixels"), np.zeros((len(images), 1, 1, 1))),
    }[norm]
    return ((levels + np.where(size <= 255 * eps + _TOLERANCE, nearest, np.trunc(change))) / 255).astype(np.float32)
