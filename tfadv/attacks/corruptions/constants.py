"""The constants of the common corruptions, at five severities, for small and for large images.  Needs no TensorFlow.

Constants depend on the size of the images: those of ImageNet-C destroy images of 32×32 pixels.  There are those of
CIFAR-10-C, for sides of 32 pixels and less, and those of ImageNet-C, for sides of 224 and more.  For a side between, a
constant c is interpolated: log c is linear in log side; c itself where one of the two constants is 0.
"""

from __future__ import annotations

import math

SMALL, LARGE = 32, 224  # sides of the images that the two sets of constants were made for
SEVERITIES = (1, 2, 3, 4, 5)

# Name → (constants for small images, constants for large ones): for each severity a number or several.
# Lengths marked * are shares of the shorter side, other lengths are in pixels.
_TABLE: dict[str, tuple[tuple, tuple]] = {
    # standard deviation
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    # photons of a white pixel
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    # share of the pixels
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    # radius, standard deviation of the blur of the disk's edge
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # standard deviation of the blur, largest shift, rounds
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # radius, standard deviation
    "motion_blur": (((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    # end and step of the zoom factors
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # mean and standard deviation of the flakes, their zoom and threshold, radius and standard deviation of their
    # motion, share of the image that is not whitened
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # amount, decay of the fog's detail
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # what is added to the value of HSV
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # factor
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    # size of the displacements*, standard deviation of their blur*, largest shift of three corners*
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((0.0625, 0.01, 0), (0.08125, 0.01, 0), (0.10625, 0.01, 0), (0.125, 0.01, 0), (0.15, 0.01, 0)),
    ),
    # factor of the side
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    # quality
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    # standard deviation
    "speckle_noise": ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    # factor of the saturation of HSV, what is added to it
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}

NAMES = tuple(_TABLE)
BENCHMARK = NAMES[:14]  # those of the benchmark but frost, whose textures are files; the others are for validation


def constants(name: str, severity: int, side: int) -> tuple[float, ...]:
    """The constants of a corruption.

    Args:
      name: one of `NAMES`.
      severity: 1 to 5.
      side: the shorter side of the images in pixels.
    """
    small, large = (_several(table[severity - 1]) for table in _TABLE[name])
    t = min(max(math.log(max(side, 1) / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return tuple(_between(a, b, t) for a, b in zip(small, large, strict=True))


def source(side: int) -> str:
    """Whose constants images of this shorter side get: "CIFAR-C", "ImageNet-C" or, interpolated, both."""
    if side <= SMALL:
        return "CIFAR-C"
    return "ImageNet-C" if side >= LARGE else "CIFAR-C to ImageNet-C"


def _several(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)


def _between(small: float, large: float, t: float) -> float:
    if t in (0, 1) or not small * large:
        return (1 - t) * small + t * large
    return small ** (1 - t) * large**t
