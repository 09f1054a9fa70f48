"""Adversarial training of any Keras classifier: `AdversarialTrainer`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfadv.attacks.gradient import check_inputs, sizes_of
from tfadv.datasets.arrays import as_arrays, is_dataset
from tfadv.datasets.batches import Samples, to_float
from tfadv.datasets.pipelines import Pipeline
from tfadv.datasets.splits import hold_out
from tfadv.defenses.base import ADAM_RATE, FINE_TUNING_RATE, Defense
from tfadv.models.image_model import fitted, image_model
from tfadv.models.logits import input_range_of, original
from tfadv.models.structure import structure
from tfadv.training.adversarial_model import parse_defense
from tfadv.training.messages import say_outcome, warn_of_missing_classes, warn_of_unused_losses
from tfadv.training.settings import TrainingSettings
from tfadv.training.trainer import ROBUST_VALIDATION_IMAGES, Trainer

LOG = logging.getLogger(__name__)
HELD_OUT = 0.1  # share of the images


class AdversarialTrainer:
    """Makes a Keras classifier harder to fool.

        tfadv.AdversarialTrainer(model, defense="nfgsm", eps=8 / 255).fit(x, y)

    The model keeps its layers and its compile state; its weights become those of the epoch with the highest validation
    accuracy under PGD, if that is higher than before.
    """

    def __init__(
        self,
        model: keras.Model,
        defense: str | Defense = "nfgsm",
        eps: float | str = 8 / 255,
    ) -> None:
        """Compiles nothing yet; the first epoch does.

        Args:
          model: float32 images (N, H, W, C) in [0, 1] → logits (N, K).
          defense: one of `tfadv.defenses.DEFENSES` that attacks in each step, with its settings: a text such as
            "nfgsm(share=0.5, optimizer=sgd, learning_rate=0.05)", or an object.
          eps: size of the perturbation in units of a [0, 1] pixel, > 0; a number, or a text such as "8/255".

        Raises:
          UserError: an unknown defense or setting, or the model is quantized.
          ValueError: eps is not above 0 and at most 1, or the defense trains on clean or on stored images.
        """
        sizes = sizes_of(eps)
        if len(sizes) != 1 or not 0 < sizes[0] <= 1:
            raise ValueError(f"eps must be one number above 0 and at most 1, for pixels in [0, 1], got {eps}.")
        self._defense = parse_defense(defense)
        self._eps, self._range, self._model = sizes[0], input_range_of(model), model
        self._optimizer = "adam" if self._defense.optimizer == "auto" else self._defense.optimizer
        decay = self._defense.weight_decay or 0.0
        self._new_trainer = functools.partial(
            Trainer, defense=self._defense, optimizer=self._optimizer, weight_decay=decay
        )
        self._trainer, self._trained = self._new_trainer(image_model(model)), self._variables()
        warn_of_unused_losses(original(model))

    def _variables(self) -> tuple[int, ...]:
        """What tells whether layers were frozen, quantized or given other variables."""
        return structure(self._model), *(id(v) for v in self._model.trainable_variables)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        validation_data: Any = None,
        epochs: int | None = None,
        batch_size: int = 128,
        augmentations: Sequence[str] = (),
        seed: int = 0,
    ) -> dict[str, Any]:
        """Trains from the model's present weights; eps grows during the first half.

        The epoch with the highest accuracy under PGD on validation images is kept.  If none is better than the model
        was before, the model keeps its weights, and a warning says so.

        Args:
          x: images in any form that `tfadv.evaluate` takes.  A `tf.data.Dataset` or `keras.utils.PyDataset` is iterated
            anew in each epoch; it brings its own order, batches and augmentation, and may yield (images, labels,
            weights), whose weights multiply the losses.
          y: labels in any form that `tfadv.evaluate` takes; None where `x` is a data set.
          validation_data: (images, labels) or a data set.  None holds out a tenth of arrays, by class; of a data set,
            it takes images that are trained on as well, and a warning says so.
          epochs: passes over the images; None takes the number of the defense, or 10.
          batch_size: images per step; for arrays.
          augmentations: names in `tfadv.datasets.AUGMENTATIONS`; for arrays.
          seed: of the held-out images, order, augmentation and attacks.

        Returns:
          dict: "history" (one list per metric, "val_robust_accuracy" among them), "start" (the validation metrics
          before), "best_epoch" (from 1; 0 is the model as it was before), "steps", "gradients" (forward and backward
          passes of single images), and "collapsed_epoch" where training had collapsed and was continued with a
          stronger attack.

        Raises:
          ValueError: images of another dtype or range, labels that are no classes of the model, or a model that returns
            no logits; `tfadv.classifier` makes one that does.
          Diverged: the loss is not finite or has exploded; the model has its weights from before.
          UserError: an unknown augmentation, or fewer than two images.
        """
        if self._variables() != self._trained:
            self._trainer, self._trained = self._new_trainer(image_model(self._model)), self._variables()
        given = None
        if validation_data is not None:
            pair = (validation_data, None) if is_dataset(validation_data) else tuple(validation_data)
            given = self._samples(*pair)
        training: Samples | Pipeline
        if is_dataset(x):
            training, validation = self._pipeline(x, y, batch_size, augmentations, given)
        else:
            training, validation = self._arrays(x, y, seed, given)
        epochs = (self._defense.epochs or 10) if epochs is None else epochs
        rate = self._defense.learning_rate or (ADAM_RATE if self._optimizer == "adam" else FINE_TUNING_RATE)
        settings = TrainingSettings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=rate,
            patience=epochs,
            seed=seed,
            augmentations=augmentations,
            eps=self._eps,
            average=self._defense.average,
        )
        warn_of_missing_classes(validation.labels, self._trainer.model.output_shape[-1])
        name = self._trainer.model.name
        record = self._trainer.fit(training, validation, settings, name=name)
        say_outcome(name, record, validation.labels, f"learning_rate (now {rate:g})")
        return record

    def _samples(self, x: Any, y: Any = None) -> Samples:
        """Images and labels that fit the model."""
        images, labels = as_arrays(x, y, self._range)
        images = fitted(self._trainer.model, images)
        if images.ndim != 4:
            raise ValueError(f"x must be N images, (N, H, W, C), got {images.shape}.")
        self._check(images, labels)
        return Samples(images, labels)

    def _arrays(self, x: Any, y: Any, seed: int, validation: Samples | None) -> tuple[Samples, Samples]:
        """A user's arrays, and what they are validated on."""
        samples = self._samples(x, y)
        if validation is not None:
            return samples, validation
        rows, held_out = hold_out(samples.labels, HELD_OUT, seed)
        return samples.select(rows), samples.select(held_out)

    def _pipeline(
        self, x: Any, y: Any, batch_size: int, augmentations: Sequence[str], validation: Samples | None
    ) -> tuple[Pipeline, Samples]:
        """A user's data set, and what it is validated on."""
        if y is not None:
            raise ValueError("y must be None where x is a data set: the labels are in it.")
        if augmentations:
            raise ValueError("augmentations are for arrays: augment the images in the data set itself.")
        pipeline = Pipeline(x, self._trainer.model, self._range, batch_size)
        if validation is None:
            validation = pipeline.first_images(ROBUST_VALIDATION_IMAGES)
            LOG.warning(
                "no validation_data: the epoch to keep is chosen on %d images that the model is trained on as well.",
                len(validation.labels),
            )
            self._check(validation.images, validation.labels)
        return pipeline, validation

    def _check(self, images: Any, labels: np.ndarray) -> None:
        classes = self._trainer.model.output_shape[-1]
        check_inputs(self._trainer.model, to_float(images[:1]), labels[:1] * 0, self._eps, (0.0, 1.0))
        if not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"y must be class numbers from 0 to {classes - 1}.")
