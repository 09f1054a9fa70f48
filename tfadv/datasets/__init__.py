"""The table of data sets and the names of the augmentations; no TensorFlow here.

A new data set is one entry in the table.  If TFDS has no builder for it, it also needs a file with a builder.
"""

from __future__ import annotations

import dataclasses

from tfadv.registry import Registry

AFFECTS_RESULTS = False  # artifacts record the entry of their data set


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A TFDS data set as an image classification task.

    Attributes:
      label: the TFDS feature that holds the class.
      image_size: pixels per side by default.
      channels: 1 or 3.
      fit: how an image is brought to that size: "pad" adds black borders to a smaller image
        (no pixel changes); "resize" scales it (bilinear, antialiased, the aspect ratio is not kept).
      flip: whether a mirrored image still shows its class.
      builder: "module:class" of a TFDS builder that needs no download, or None for TFDS' own builder of that name.
    """

    label: str
    image_size: int
    channels: int
    fit: str
    flip: bool
    builder: str | None = None


DATASETS = Registry(
    "dataset",
    {
        "digits": DatasetSpec("label", 32, 1, "resize", False, builder="tfadv.datasets.digits:Digits"),
        "mnist": DatasetSpec("label", 32, 1, "pad", False),
        "cifar10": DatasetSpec("label", 32, 3, "pad", True),
        "oxford_iiit_pet": DatasetSpec("species", 64, 3, "resize", True),
        "cats_vs_dogs": DatasetSpec("label", 64, 3, "resize", True),
    },
)

AUGMENTATIONS = ("rotation", "flip", "shift", "scaling", "crop", "shear", "brightness", "noise")
