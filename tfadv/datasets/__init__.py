"""The table of data sets and the names of the augmentations; no TensorFlow here.

A data set is an entry of the table, any other data set of TFDS ("fashion_mnist", "emnist/letters", "name:version", or
the folder of a prepared one), "folder:PATH" or "npz:FILE".  An entry of the table gives defaults.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re

from tfadv.errors import UserError, check_name
from tfadv.registry import Registry


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A TFDS data set as an image classification task.

    Attributes:
      label: the TFDS feature that holds the class; "" finds it.
      image_size: pixels per side by default; 0 is that of the images.
      fit: how an image is brought to that size.
        "keras": scaled as by `keras.utils.image_dataset_from_directory`: bilinear, not antialiased, the aspect ratio is
          not kept; rounded to whole grey levels.
        "crop": the same, after the middle was cut out in the aspect ratio wanted (`crop_to_aspect_ratio=True`).
        "resize": scaled bilinear and antialiased, the aspect ratio is not kept.
        "pad": black borders are added to a smaller image (no pixel changes); a larger one is scaled as by "resize".
      flip: whether a mirrored image still shows its class.
      builder: "module:class" of a TFDS builder that needs no download, or None for TFDS' own builder of that name.
    """

    label: str
    image_size: int
    fit: str
    flip: bool
    builder: str | None = None


DATASETS = Registry(
    "dataset",
    {
        "digits": DatasetSpec("label", 32, "resize", False, builder="tfadv.datasets.digits:Digits"),
        "mnist": DatasetSpec("label", 32, "pad", False),
        "cifar10": DatasetSpec("label", 32, "pad", True),
        "oxford_iiit_pet": DatasetSpec("species", 64, "resize", True),
        "cats_vs_dogs": DatasetSpec("label", 64, "resize", True),
    },
)

FITS = ("keras", "crop", "resize", "pad")
AUGMENTATIONS = ("rotation", "flip", "shift", "scaling", "crop", "shear", "brightness", "noise")

FOLDER, NPZ = "folder:", "npz:"
_READERS = {FOLDER: "tfadv.datasets.image_folder", NPZ: "tfadv.datasets.npz_file"}
_GLYPHS = ("svhn_cropped", "emnist", "kmnist", "omniglot", "binary_alpha_digits")  # mirroring can change the class
_TFDS_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:\d+\.\d+\.\d+)?")


def find(name: str, fit: str = "") -> DatasetSpec:
    """The entry of a data set, or the defaults for those not in the table; a given `fit` replaces its own."""
    if name in DATASETS:
        entry = DATASETS[name]
    else:
        entry = DatasetSpec("", 0, "keras" if reader(name) else "resize", flip=re.split("[/:]", name)[0] not in _GLYPHS)
    return dataclasses.replace(entry, fit=fit or entry.fit)


def reader(name: str) -> tuple[str, pathlib.Path] | None:
    """(module whose `load` reads a folder or file, its path); None for a data set of TFDS."""
    for prefix, module in _READERS.items():
        if name.startswith(prefix):
            return module, pathlib.Path(os.path.expanduser(name.removeprefix(prefix)))
    return None


def short_name(name: str) -> str:
    """The name in paths and in TFDS: letters, digits and underscores only, the first a letter."""
    read = reader(name)
    if read:
        name = read[1].resolve().stem
    elif "/" in name and pathlib.Path(name).is_dir():
        name = "_".join(pathlib.Path(name).resolve().parts[-2:])
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return text if text[:1].isalpha() else f"images_{text}"


def normalized(name: str) -> str:
    """The same name with its path, if it has one, in the normal form: "folder:photos/" → "folder:photos"."""
    for prefix in _READERS:
        if name.startswith(prefix):
            return prefix + os.path.normpath(os.path.expanduser(name.removeprefix(prefix)))
    path = os.path.expanduser(name)
    return os.path.normpath(path) if "/" in name and os.path.isdir(path) else name


def check(name: str, data_dir: str, label: str = "") -> None:
    """Checks that a data set can exist; loads TensorFlow for names that are not in the table.

    Args:
      name: of the data set.
      data_dir: folder of the TFDS data sets, in which it may be prepared.
      label: the TFDS feature that holds the class; "" finds it.

    Raises:
      UserError: it can't, and the message suggests the nearest name or says what is missing; or it has no TFDS
        features to choose a label from.
    """
    if name in DATASETS:
        return
    read = reader(name)
    if read:
        if label:
            raise UserError(f"--label={label} selects a feature of a TFDS data set; {name} is none.")
        if name in _READERS or not (read[1].is_dir() if name.startswith(FOLDER) else read[1].is_file()):
            raise UserError(
                f"--dataset={name}: there is no {'folder' if name.startswith(FOLDER) else 'file'} {read[1]}."
            )
        return
    if "/" in name and os.path.isdir(os.path.expanduser(name)):
        return
    if not _TFDS_NAME.fullmatch(name):
        raise UserError(f"--dataset={name} is not the name of a data set, a folder of TFDS, {FOLDER}PATH or {NPZ}FILE.")
    own = re.split("[/:]", name)[0]
    if not os.path.isdir(os.path.join(os.path.expanduser(data_dir), own)):
        import tensorflow_datasets as tfds

        check_name("dataset", own, [*DATASETS, *tfds.list_builders()], most=len(DATASETS))
