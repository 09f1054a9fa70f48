"""Everything that explains a model's predictions for some images: `explain`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from tfadv.attacks.fgsm import FGSM
from tfadv.attacks.gradient import check_inputs, compiled_logits, sizes_of
from tfadv.datasets.arrays import as_arrays
from tfadv.datasets.batches import to_float
from tfadv.errors import UserError
from tfadv.explanation.loss_surface import loss_surface
from tfadv.explanation.saliency import NoFeatureMaps, grad_cam, saliency
from tfadv.explanation.vulnerability import Vulnerability, vulnerability
from tfadv.models.expectation import Expectation
from tfadv.models.image_model import fitted, image_model
from tfadv.models.logits import input_range_of


@dataclasses.dataclass(frozen=True)
class Explanation:
    """G images, clean and attacked, with what a model looks at; where an array has a first axis of 2: clean, attacked.

    Attributes:
      eps: size of the perturbation of the attacked images, and greatest distance on the loss surface.
      images: float32 (2, G, H, W, C) in [0, 1].
      labels: int (G,), true classes.
      classes: int (2, G), predicted classes.
      saliency: float32 (2, G, H, W), see `tfadv.explanation.saliency`, for the true class.
      cam: float32 (2, G, H, W), see `tfadv.explanation.grad_cam`, for the predicted class; NaN where the model has no
        feature maps.
      surface: float32 (G, P, P), see `tfadv.explanation.loss_surface`.
      vulnerability: measurements of these images, or of more of them.
    """

    eps: float
    images: np.ndarray
    labels: np.ndarray
    classes: np.ndarray
    saliency: np.ndarray
    cam: np.ndarray
    surface: np.ndarray
    vulnerability: Vulnerability

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed npz file."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "vulnerability"}
        own = {f.name: getattr(self.vulnerability, f.name) for f in dataclasses.fields(Vulnerability)}
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays, **own)

    @classmethod
    def load(cls, path: pathlib.Path) -> Explanation:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        own = Vulnerability(**{f.name: arrays.pop(f.name) for f in dataclasses.fields(Vulnerability)})
        return cls(**arrays | {"eps": float(arrays["eps"])}, vulnerability=own)


def explain(
    model: Any, x: Any, y: Any = None, eps: float = 8 / 255, *, shown: Any = None, points: int = 21, resume: Any = None
) -> Explanation:
    """Attacks images by FGSM and computes what explains the predictions.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      x: images in any form that `tfadv.evaluate` takes.
      y: labels in any form that `tfadv.evaluate` takes; None where `x` is a data set.
      eps: size of the perturbation, > 0.
      shown: int (G,), positions in x of the images to show; None means the first four.  The vulnerability is measured
        on all images.
      points: of the loss surface, in each direction.
      resume: saves the state of the longest part, see `vulnerability`; or None.

    Returns:
      An `Explanation`.

    Raises:
      ValueError: an argument is out of its range, or the model does not take these images.
      UserError: the model is a `tfadv.expectation`.
    """
    sizes = sizes_of(eps)
    if len(sizes) != 1 or not sizes[0] > 0:
        raise ValueError(f"eps must be one number greater than 0, got {eps}.")
    eps, model = sizes[0], image_model(model)
    if isinstance(model, Expectation):
        raise UserError(
            "explain measures the distance to the nearest adversarial image, which a random model, tfadv.expectation, "
            "does not have: take saliency, grad_cam and loss_surface of tfadv.explanation."
        )
    images, labels = as_arrays(x, y, input_range_of(model))
    images = fitted(model, images)
    x, y, _ = check_inputs(model, to_float(images), labels, eps, (0.0, 1.0))
    rows = np.arange(min(4, len(y))) if shown is None else np.asarray(shown)
    if rows.size and not (rows.min() >= 0 and rows.max() < len(y)):
        raise ValueError(f"shown must be positions of the {len(y)} images, got {shown}.")
    own_x, own_y = x.numpy()[rows], y.numpy()[rows]
    images = np.stack([own_x, np.asarray(FGSM()(model, own_x, own_y, eps))])
    classes = np.stack([np.argmax(compiled_logits(model, each), axis=1) for each in images])
    try:
        cam = np.stack([grad_cam(model, each, own) for each, own in zip(images, classes)])
    except NoFeatureMaps:
        cam = np.full(images.shape[:-1], np.nan, np.float32)
    return Explanation(
        eps=eps,
        images=images,
        labels=own_y,
        classes=classes,
        saliency=np.stack([saliency(model, each, own_y) for each in images]),
        cam=cam,
        surface=loss_surface(model, own_x, own_y, eps, points),
        vulnerability=vulnerability(model, x, y, resume=resume),
    )
