"""The table of data sets and the names of the augmentations; no TensorFlow here.

A new data set is one line in the table (and one file, where TFDS has no builder for it).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    """A TFDS data set as an image classification task.

    Attributes:
      label: the TFDS feature that holds the class.
      image_size: pixels of a side by default.
      channels: 1 or 3.
      fit: how an image reaches that size: "pad" with black where it is smaller
        (no pixel changes), or "resize" (bilinear, antialiased, aspect ratio not kept).
      flip: whether a mirrored image still shows its class.
      paper: the row of the paper's tables to compare with, or None.
    """

    label: str
    image_size: int
    channels: int
    fit: str
    flip: bool
    paper: str | None


SOURCES = {
    "digits": Source("label", 32, 1, "resize", False, None),
    "mnist": Source("label", 32, 1, "pad", False, "MNIST"),
    "cifar10": Source("label", 32, 3, "pad", True, "CIFAR10"),
    "oxford_iiit_pet": Source("species", 64, 3, "resize", True, "Cat VS Dog"),
    "cats_vs_dogs": Source("label", 64, 3, "resize", True, "Cat VS Dog"),
}

AUGMENTATIONS = ("rotation", "flip", "shift", "scaling", "crop", "shear", "brightness", "noise")
