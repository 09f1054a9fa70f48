"""Adversarial training of any Keras classifier: `AdversarialTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from sklearn.model_selection import train_test_split

from tfadv import specs
from tfadv.attacks.gradient import check_inputs
from tfadv.datasets.arrays import as_arrays
from tfadv.datasets.batches import Samples, to_float
from tfadv.objectives import OBJECTIVES
from tfadv.objectives.base import as_objective
from tfadv.training.trainer import Trainer, TrainingSettings


class AdversarialTrainer:
    """Makes a Keras classifier harder to fool.

        tfadv.AdversarialTrainer(model, defense="nfgsm", eps=8 / 255).fit(x, y)

    The model keeps its layers; its weights become those of the epoch with the highest validation accuracy under PGD.
    """

    def __init__(
        self, model: keras.Model, defense: str = "nfgsm", eps: float = 8 / 255, *, weight_decay: float = 5e-3
    ) -> None:
        """Compiles nothing yet; the first epoch does.

        Args:
          model: float32 images (N, H, W, C) in [0, 1] → logits (N, K).
          defense: an objective of `tfadv.objectives.OBJECTIVES` and its settings, such as "nfgsm(share=0.5)".
          eps: size of the perturbation in units of a [0, 1] pixel, > 0.
          weight_decay: decoupled, of kernels; see `tfadv.training.sgd.SGD`.

        Raises:
          UserError: an unknown defense or setting.
          ValueError: eps is not above 0 and at most 1, or the defense trains on clean or on stored images.
        """
        if not 0 < eps <= 1:
            raise ValueError(f"eps must be above 0 and at most 1, got {eps}.")
        specification = specs.split_specs(defense, OBJECTIVES)
        if len(specification) != 1:
            raise ValueError(f"defense must name one objective, got {defense!r}.")
        if specification[0][0] == "cross_entropy":
            raise ValueError("cross_entropy trains on clean images only: use model.fit, or a defense.")
        objective = as_objective(specs.build_with(*specification[0], OBJECTIVES))
        if objective.needs_mixed_samples:
            raise ValueError(f"{defense} needs stored adversarial images of other models: use --defenses={defense}.")
        self._eps = eps
        self._trainer = Trainer(model, weight_decay=weight_decay, objective=objective)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 10,
        batch_size: int = 128,
        learning_rate: float = 0.05,
        augmentations: Sequence[str] = (),
        average: float = 0.0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Trains from the model's present weights with SGD; eps grows during the first half.

        A tenth of the images, stratified by class, is held out: it decides which epoch is kept.

        Args:
          x: images in any form that `tfadv.evaluate` takes.
          y: labels in any form that `tfadv.evaluate` takes; None where `x` is a data set.
          epochs: passes over the images.
          batch_size: images per step.
          learning_rate: the peak; it rises during the first tenth and falls to 0.
          augmentations: names in `tfadv.datasets.AUGMENTATIONS`; they need square images.
          average: decay per step of a moving average of the weights, such as 0.997, which is validated and kept in
            place of the weights themselves; 0 keeps the weights.
          seed: of the held-out images, order, augmentation and attacks.

        Returns:
          dict: "history" (one list per metric, "val_robust_accuracy" among them), "best_epoch" (from 1), "steps", and
          "collapsed_epoch" where training had collapsed and was continued with a stronger attack.

        Raises:
          ValueError: images of another dtype or range, labels that are no classes of the model, or a model that returns
            no logits; `tfadv.classifier` makes one that does.
          Diverged: the loss is not finite or has exploded.
        """
        x, y = as_arrays(x, y)
        x = np.asarray(x)
        if x.dtype not in (np.uint8, np.float32) or x.ndim != 4 or len(x) != len(y):
            raise ValueError(f"x must be N images, uint8 or float32 (N, H, W, C), got {x.dtype} {x.shape}.")
        if x.dtype == np.float32 and not (0 <= x.min() and x.max() <= 1):
            raise ValueError(f"float32 images must be in [0, 1], got values from {x.min():g} to {x.max():g}.")
        check_inputs(self._trainer.model, to_float(x[:1]), y[:1], self._eps, (0.0, 1.0))
        if not 0 <= y.min() <= y.max() < self._trainer.model.output_shape[-1]:
            raise ValueError(f"y must be class numbers from 0 to {self._trainer.model.output_shape[-1] - 1}.")
        rows, held_out = train_test_split(np.arange(len(y)), test_size=0.1, stratify=y, random_state=seed)
        settings = TrainingSettings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=epochs,
            seed=seed,
            augmentations=tuple(augmentations),
            eps=self._eps,
            average=average,
        )
        return self._trainer.fit(Samples(x[rows], y[rows]), Samples(x[held_out], y[held_out]), settings)
