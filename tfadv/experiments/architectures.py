"""The model before training: a built-in one, or one of the user."""

from __future__ import annotations

import abc
import dataclasses
import functools
import logging
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfadv import specs
from tfadv.datasets.batches import to_float
from tfadv.errors import UserError
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.models import MODELS, files, logits, own, pretrained
from tfadv.models.builder import build
from tfadv.models.compiled import compiled_logits
from tfadv.store.files import digest

if TYPE_CHECKING:
    from tfadv.config import Config
    from tfadv.experiments.dataset_splits import DatasetSplits

LOG = logging.getLogger(__name__)
RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))  # of pixels, which --input_range=auto tries
_TRIED_IMAGES = 256


class Architecture(abc.ABC):
    """A model before training.

    Attributes:
      label: its name in files and tables.
      has_weights: whether its initial weights are those of a trained model.
    """

    label: str
    has_weights: bool

    @abc.abstractmethod
    def settings(self) -> dict:
        """JSON values that change when the model does."""

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """The model with its initial weights, from float32 images in [0, 1] to logits.

        Raises:
          UserError: it does not fit the images of the data set.
        """

    def content(self, model: keras.Model) -> str:
        """A hash that changes when the predictions of the trained model do.

        Args:
          model: the trained model, as it is saved.
        """
        return files.weights_hash(model)


class RegisteredModel(Architecture):
    """A model of the table `MODELS` with random weights, which depend on `--seed`, or with those of `--weights`."""

    has_weights = False

    def __init__(self, name: str, config: Config, splits: DatasetSplits) -> None:
        """`name`: a name in `MODELS`."""
        self.label, self._config, self._splits = name, config, splits

    def settings(self) -> dict:
        """The entry of the table, and the pretrained weights."""
        return {
            "model": self.label,
            "model_entry": dataclasses.asdict(MODELS[self.label]),
            "weights": self._weights_hash,
            **self._splits.conversion,
        }

    @functools.cached_property
    def _weights_hash(self) -> str | None:
        """Read once per run: every question to the graph asks for the settings."""
        return pretrained.identity(self._config.weights)

    def build(self) -> keras.Model:
        """See `Architecture.build`."""
        keras.utils.set_random_seed(self._config.seed)
        splits = self._splits
        model = build(self.label, splits.shape, len(splits.class_names), synchronized=self._config.sync_batchnorm)
        return pretrained.with_weights(model, self._config.weights) if self._config.weights else model


class OwnModel(Architecture):
    """A model that the user brings along, with its weights."""

    has_weights = True

    def __init__(self, name: str, config: Config, splits: DatasetSplits) -> None:
        """`name`: as in `tfadv.models.own`."""
        self.label, self._name, self._config, self._splits = own.label(name), name, config, splits

    def settings(self) -> dict:
        """What the model is, and the range of its pixels."""
        return {
            "model": self.label,
            "model_entry": self._identity,
            "input_range": self._config.input_range,
            **self._splits.conversion,
        }

    @functools.cached_property
    def _identity(self) -> dict:
        """Read once per run: every question to the graph asks for the settings."""
        return own.identity(self._name)

    def build(self) -> keras.Model:
        """See `Architecture.build`."""
        first = "_input_range" not in self.__dict__
        return self._classifier(self._input_range, quiet=not first)

    def content(self, model: keras.Model) -> str:
        """See `Architecture.content`: the same weights predict something else in another model or on other pixels."""
        return digest(self.settings() | {"weights": super().content(model)})

    @functools.cached_property
    def _input_range(self) -> tuple[float, float]:
        """The range given, or the one with which the model classifies most validation images correctly."""
        if self._config.input_range_given:
            return self._config.input_range_given
        validation = self._splits.images["validation"]
        rows = np.random.default_rng(0).permutation(len(validation.labels))[:_TRIED_IMAGES]
        x, y = to_float(validation.images[rows]), validation.labels[rows]
        accuracies, classifier = {}, self._classifier((0.0, 1.0), quiet=True)
        for low, high in RANGES:
            predicted = np.argmax(compiled_logits(classifier, x * (high - low) + low), axis=1)
            accuracies[low, high] = float((predicted == y).mean())
        best = max(accuracies, key=lambda pair: accuracies[pair])
        listing = ", ".join(f"{accuracy:.1%} for {low:g},{high:g}" for (low, high), accuracy in accuracies.items())
        LOG.info(
            "%s: pixels from %g to %g. Accuracy on %d validation images: %s. Override with --input_range.",
            *(self.label, *best, len(rows), listing),
        )
        if hardly_better_than_guessing(accuracies[best], largest_share(np.bincount(y).tolist())):
            LOG.warning(
                "%s is hardly better than guessing: are its classes in the order %s, and does it expect other pixels?",
                *(self.label, ", ".join(self._splits.class_names[:10])),
            )
        return best

    def _classifier(self, input_range: tuple[float, float], quiet: bool) -> keras.Model:
        model, splits = own.load(self._name), self._splits
        try:
            classifier = logits.classifier(model, input_range, input_shape=splits.shape, quiet=quiet)
        except Exception as error:  # also what the model itself raises on images of this shape
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self._name} can't be used as a classifier of {splits.shape} images: {reason}")
        takes, returns = classifier.input_shape[1:], classifier.output_shape[-1]
        if any(size is not None and size != own_size for size, own_size in zip(takes, splits.shape)):
            wanted = "x".join("any" if size is None else str(size) for size in takes)
            has = "x".join(map(str, splits.shape))
            way = f"={specs.size(f'{takes[0]}x{takes[1]}')}" if takes[0] and takes[1] else ""
            raise UserError(
                f"{self._name} takes images of {wanted} and {self._config.dataset} has {has}: give --image_size{way}."
            )
        if returns != len(splits.class_names):
            raise UserError(
                f"{self._name} returns {returns} classes and {self._config.dataset} has {len(splits.class_names)} "
                f"({', '.join(splits.class_names[:10])}{', …' if len(splits.class_names) > 10 else ''})."
            )
        return classifier
