"""The model before training: a built-in one, or one of the user."""

from __future__ import annotations

import abc
import functools
import logging
from typing import TYPE_CHECKING

import keras
import numpy as np

from tfadv import specs
from tfadv.datasets.batches import to_float
from tfadv.errors import UserError
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.models import files, logits, own, pretrained
from tfadv.models.builder import build
from tfadv.models.compiled import compiled_logits, raise_failure_of
from tfadv.store.files import digest

if TYPE_CHECKING:
    from tfadv.pipeline.run import Run

LOG = logging.getLogger(__name__)
RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))  # of pixels, which --input_range=auto tries
_TRIED_IMAGES = 256
_ALIKE = 0.9  # of the labels of a deployed model are those of its twin, at least


class Network(abc.ABC):
    """A model before training.

    Attributes:
      label: its name in files and tables.
      is_own: whether it is the user's own, with the weights of a trained model.
    """

    label: str
    is_own: bool

    @abc.abstractmethod
    def inputs(self) -> dict:
        """JSON values that change when the model does."""

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """The model with its initial weights, from float32 images in [0, 1] to logits.

        Raises:
          UserError: it does not fit the images of the data set.
        """

    @property
    def access(self) -> str:
        """Of a deployed model, how it is attacked, a sentence; "" of others."""
        return ""

    def content(self, model: keras.Model) -> str:
        """A hash that changes when the predictions of the trained model do: its weights alone don't tell.

        Args:
          model: the trained model, as it is saved.
        """
        return digest(self.inputs() | {"trained": files.weights_hash(model)})


class BuiltInModel(Network):
    """A model of the table `MODELS` with random weights, which depend on `--seed`, or with those of `--weights`."""

    is_own = False

    def __init__(self, name: str, run: Run) -> None:
        """`name`: a name in `MODELS`."""
        self.label, self._run = name, run

    @functools.cached_property
    def _description(self) -> str:
        if self._run.devices.workers > 1:  # all hosts would have to create the variables of a shared instance together
            return files.description(self.build())
        with self._run.lend(self.label) as built:
            return files.description(built.model)

    @functools.cached_property
    def _weights(self) -> str | None:
        return pretrained.identity(self._run.config.weights)

    def inputs(self) -> dict:
        """The layers, the pretrained weights, and the seed of the others."""
        return {
            "model": self.label,
            "network": self._description,
            "weights": self._weights,
            "seed": self._run.config.seed,
        }

    def build(self) -> keras.Model:
        """See `Network.build`."""
        config, dataset = self._run.config, self._run.dataset
        keras.utils.set_random_seed(config.seed)
        model = build(self.label, dataset.shape, len(dataset.class_names))
        return pretrained.with_weights(model, config.weights) if config.weights else model


class OwnModel(Network):
    """A model that the user brings along, with its weights."""

    is_own = True

    def __init__(self, name: str, run: Run) -> None:
        """`name`: as in `tfadv.models.own`."""
        self.label, self._name, self._run = own.label(name), name, run

    @property
    def access(self) -> str:
        """See `Network.access`."""
        if not own.is_deployed(self._name):
            return ""
        gradient = f"attacks follow the gradient of {self._twin}" if self._twin else "attacks have no gradient"
        return f"{self._name} decides which images are adversarial; {gradient}."

    @functools.cached_property
    def _identity(self) -> dict:
        of_twin = {"twin": own.identity(self._twin)} if self._twin else {}
        return own.identity(self._name) | of_twin

    @property
    def _twin(self) -> str:
        """The path of the twin, for a model whose gradient is not known."""
        return self._run.config.twin if own.takes_twin(self._name) else ""

    def inputs(self) -> dict:
        """What the model is, the range of its pixels and the shape of the images."""
        return {
            "model": self.label,
            "network": self._identity,
            "input_range": self._run.config.input_range,
            "shape": list(self._run.dataset.shape),
        }

    def build(self) -> keras.Model:
        """See `Network.build`."""
        first = "_input_range" not in self.__dict__
        model = self._classifier(self._input_range, quiet=not first)
        # A function may also return a Keras model, which has weights.
        if first and own.takes_twin(self._name) and not model.weights:
            self._describe_deployed(model)
        elif first and not np.isfinite(compiled_logits(model, self._some_images()[0])).all():
            raise UserError(f"{self._name} returns NaN or infinity for images of the data set: its weights may be NaN.")
        return model

    def _describe_deployed(self, model: keras.Model) -> None:
        """Says how often a deployed model answers as its twin, and how long results are kept.

        Raises:
          UserError: it is to be trained.
        """
        if len(self._run.defenses_of(self._name)) > 1:
            raise UserError(f"{self._name} can be attacked but not trained: leave out --defenses.")
        if own.is_function(self._name):
            LOG.info(
                "%s: results are kept as long as the code of its module is the same; give --overwrite if the model "
                "behind it has changed.",
                self._name,
            )
        if own.is_endpoint(self._name):
            LOG.info(
                "%s: results are kept as long as the service names the same version; give --overwrite if the model "
                "behind it has changed.",
                self._name,
            )
        if not self._twin:
            return
        images, _ = self._some_images()
        twin = logits.classifier(own.load(self._twin), self._input_range, input_shape=self._run.dataset.shape)
        same = np.mean(np.argmax(compiled_logits(model, images), 1) == np.argmax(compiled_logits(twin, images), 1))
        LOG.info("%s and its twin give %.1f%% of %d images one class.", self.label, 100 * same, len(images))
        if same < _ALIKE:
            LOG.warning(
                "%s is hardly a twin of %s: the gradient misleads, and the accuracy under attack may be much too high.",
                *(self._twin, self._name),
            )

    def _some_images(self) -> tuple[np.ndarray, np.ndarray]:
        """(float32 images in [0, 1], labels); of test images where there are no others: then they choose nothing."""
        images = self._run.dataset.images
        split = images["validation"] if len(images["validation"].labels) else images["test"]
        rows = np.random.default_rng(0).permutation(len(split.labels))[:_TRIED_IMAGES]
        return to_float(split.images[rows]), split.labels[rows]

    @functools.cached_property
    def _input_range(self) -> tuple[float, float]:
        """The range given, or the one with which the model classifies most validation images correctly."""
        if self._run.config.input_range_given:
            return self._run.config.input_range_given
        dataset, (x, y) = self._run.dataset, self._some_images()
        accuracies, classifier = {}, self._classifier((0.0, 1.0), quiet=True)
        for low, high in RANGES:
            predicted = np.argmax(compiled_logits(classifier, x * (high - low) + low), axis=1)
            accuracies[low, high] = float((predicted == y).mean())
        best = max(accuracies, key=lambda pair: accuracies[pair])
        listing = ", ".join(f"{accuracy:.1%} for {low:g},{high:g}" for (low, high), accuracy in accuracies.items())
        LOG.info(
            "%s: pixels from %g to %g. Accuracy on %d validation images: %s. Override with --input_range.",
            *(self.label, *best, len(y), listing),
        )
        if hardly_better_than_guessing(accuracies[best], largest_share(np.bincount(y).tolist())):
            LOG.warning(
                "%s is hardly better than guessing: are its classes in the order %s, and does it expect other pixels?",
                *(self.label, ", ".join(dataset.class_names[:10])),
            )
        return best

    def _classifier(self, input_range: tuple[float, float], quiet: bool) -> keras.Model:
        dataset = self._run.dataset
        model = own.load(self._name, self._twin, dataset.shape, len(dataset.class_names))
        try:
            classifier = logits.classifier(model, input_range, input_shape=dataset.shape, quiet=quiet)
        except Exception as error:  # also what the model itself raises on images of this shape
            raise_failure_of(model)
            reason = " ".join(str(error).split())[:500]
            raise UserError(f"{self._name} can't be used as a classifier of {dataset.shape} images: {reason}")
        takes, returns = classifier.input_shape[1:], classifier.output_shape[-1]
        if any(size is not None and size != own_size for size, own_size in zip(takes, dataset.shape)):
            wanted = "x".join("any" if size is None else str(size) for size in takes)
            has = "x".join(map(str, dataset.shape))
            size = f"={specs.size(f'{takes[0]}x{takes[1]}')}" if takes[0] and takes[1] else ""
            way = (
                f"give --image_size{size}" if takes[2] in (None, dataset.shape[2]) else "the channels must be the same"
            )
            raise UserError(f"{self._name} takes images of {wanted} and {self._run.config.dataset} has {has}: {way}.")
        if returns != len(dataset.class_names):
            raise UserError(
                f"{self._name} returns {returns} classes and {self._run.config.dataset} has {len(dataset.class_names)} "
                f"({', '.join(dataset.class_names[:10])}{', …' if len(dataset.class_names) > 10 else ''})."
            )
        return classifier
