"""`digits`: the 1,797 handwritten digits that scikit-learn carries, as a TFDS data set that needs no download."""

from __future__ import annotations

import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """Optical recognition of handwritten digits (UCI, test part): 8x8 pixels, ten classes.

    The 17 grey levels 0..16 become uint8 `round(level * 255 / 16)`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 1,797 handwritten digits of scikit-learn's load_digits.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            license="CC BY 4.0",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        digits = sklearn.datasets.load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        for key, (image, label) in enumerate(zip(images, digits.target)):
            yield key, {"image": image, "label": int(label)}
