"""Several models as one, so that an attack must fool all of them."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfadv.models.expectation import Expectation
from tfadv.models.image_model import image_model
from tfadv.models.logits import check_logits, input_range_of, set_input_range
from tfadv.models.twins import copy_of


def ensemble(models: Sequence[keras.Model]) -> keras.Model:
    """A model whose logits are the mean of those of several (Dong et al. 2017, section 3.2).

        both = tfadv.ensemble([tfadv.classifier(a, input_range=(0, 255)), tfadv.classifier(b)])
        x_adv = tfadv.attacks.parse("mifgsm(diversity=0.5, early_stop=false)")(both, x, y, eps=8 / 255)

    Images that fool it fool other models more often than those of one model do (https://arxiv.org/abs/1710.06081).  It
    shares the variables of the models.

    Args:
      models: Keras models from the same float32 images (N, H, W, C) in [0, 1] to logits (N, K) of the same classes.

    Returns:
      A functional `keras.Model` of the same images and classes.  `tfadv.evaluate` reads images in the `input_range` of
      the models where all have the same one, else in [0, 1], or whole numbers from 0 to 255.

    Raises:
      ValueError: there is no model, one ends in a softmax or is a `tfadv.expectation`, or their shapes differ or are
        unknown, as those of a subclassed model; or whole numbers mean other pixels to one model than to another, as
        with `input_range` (0, 100) and (0, 255).
    """
    if isinstance(models, keras.Model):
        raise ValueError(f"an ensemble is made of a list of models, such as [a, b], got {models.name}.")
    parts = [image_model(model) for model in models]
    for part in parts:
        if not hasattr(part, "input_shape"):
            name = getattr(part, "name", part)
            raise ValueError(f"an ensemble needs the shape of its images, and {name} has none: use tfadv.classifier.")
    shapes = {(part.input_shape[1:], part.output_shape[1:]) for part in parts}
    if len(shapes) != 1:
        listing = "; ".join(f"{inputs} to {outputs}" for inputs, outputs in sorted(shapes, key=str)) or "none"
        raise ValueError(f"an ensemble needs models of the same images and classes, got {listing}.")
    for part in parts:
        check_logits(part)
        if isinstance(part, Expectation):
            raise ValueError(
                "a tfadv.expectation can't be in an ensemble: take the expectation of the ensemble instead."
            )
    ranges = {input_range_of(part) for part in parts}
    if len(ranges) > 1 and any(high > 1 and high != 255 for _, high in ranges):  # whole numbers are read in this range
        listing = " and ".join(f"{low:g} to {high:g}" for low, high in sorted(ranges))
        raise ValueError(
            f"the models of an ensemble expect pixels from {listing}, and whole numbers can't be read "
            "in all of these ranges: give all models one input_range, with keras.layers.Rescaling before the others."
        )
    images, outputs = keras.Input(parts[0].input_shape[1:]), []
    for number, part in enumerate(parts):
        copy = copy_of(part)
        copy.name = f"{part.name}_{number}"  # two of them may have the same name
        outputs.append(keras.layers.Activation("linear", dtype="float32")(copy(images)))
    mean = keras.layers.Average()(outputs) if len(outputs) > 1 else outputs[0]
    model = keras.Model(images, mean, name="ensemble")
    if len(ranges) == 1:
        set_input_range(model, *ranges)
    return model
