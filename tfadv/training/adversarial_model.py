"""Adversarial training inside Keras' own `fit`: `AdversarialModel`."""

from __future__ import annotations

import dataclasses
import logging
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfadv import specs
from tfadv.attacks.gradient import check_sizes, sizes_of
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.defenses.online import AdversarialTraining, OnlineDefense, sizes_of_images
from tfadv.errors import UserError
from tfadv.models.image_model import stands_for
from tfadv.models.logits import classifier, outputs_of
from tfadv.models.random_layers import augmentation_layers
from tfadv.models.twins import is_quantized
from tfadv.training.schedule import CLEAN_SHARE, RAMP_SHARE

LOG = logging.getLogger(__name__)
_TOLERANCE = 1e-4  # of the range of pixels: images that were normalised and scaled back miss its ends by rounding
_LABEL_TOLERANCE = 1e-3  # by which rounding may move a label of 0 or 1
# Settings with which the command line trains; in Keras, `compile` and `fit` say the same.
_OF_COMPILE_AND_FIT = ("epochs", "learning_rate", "optimizer", "weight_decay", "average", "models")
_METHODS = ("train_step", "test_step", "compute_loss", "compute_metrics")  # that a model may define itself


class _Attacked(NamedTuple):
    """The input of a step whose loss the defense computes."""

    images: tf.Tensor  # float32 (N, H, W, C) in [0, 1]
    adversarial: tf.Tensor | None
    classes: tf.Tensor  # int64 (N,)


class _Trained(NamedTuple):
    """The output of such a step."""

    outputs: tf.Tensor  # what the user's model would return, for the metrics
    losses: tf.Tensor  # float32 (N,)


class _Given(keras.losses.Loss):
    """The mean of losses that are computed already, with Keras' weights and reduction."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return y_pred


@keras.saving.register_keras_serializable("tfadv")
class AdversarialModel(keras.Model):
    """A Keras model whose `fit` trains another one on adversarial images.

        robust = tfadv.AdversarialModel(model, "nfgsm", eps=8 / 255, input_range=(0, 255))
        robust.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        robust.fit(train, validation_data=validation, epochs=10)
        model.save("hardened.keras")

    Both models have the same layers.  `compile` and `fit` are Keras' own, with any optimizer, loss, metrics, callbacks
    and data.  Each training step first attacks its batch, with the present weights and `training=False`.  The metrics
    of training are those of the attacked images; `evaluate` and validation take the images as they are, and the
    callback `tfadv.RobustAccuracy` adds the accuracy under attack.
    """

    def __init__(
        self,
        model: keras.Model,
        defense: str | Defense = "nfgsm",
        eps: float | str | Sequence[float | str] = 8 / 255,
        input_range: tuple[float, float] = (0.0, 1.0),
        *,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """Wraps a model, which changes when `fit` is called.

        Args:
          model: any classifier that `tfadv.classifier` accepts, with or without a softmax.  Under a strategy of
            `tf.distribute`, both models are made in its scope.
          defense: one of `tfadv.defenses.DEFENSES` that attacks in each step, with its settings: a text such as
            "nfgsm(share=0.5)", or an object.  pgd, nfgsm, rsfgsm and gaussian train with the loss given to `compile`.
            trades, mart and a defense with `smoothing` have a loss of their own, of class numbers or one-hot labels;
            that of `compile` is the loss of validation.
          eps: size of the perturbation for pixels in [0, 1], in the norm of the defense; a number, or a text such as
            "8/255"; for each norm one where there are several, as in "pgd(norm=linf+l1)".  It grows from 0 during the
            first half of `fit`, unless the defense says eps_schedule=fixed.  gaussian has a sigma in its place.
          input_range: the (least, greatest) pixel value of the images that the model takes.
          seed: of the attacks.  Their random numbers follow from it and the number of the optimizer's step.
          **kwargs: of `keras.Model`.

        Raises:
          UserError: an unknown defense or setting, or a quantized model.
          ValueError: eps is out of range, the defense does not attack in each step or has a setting that belongs to
            `compile` or `fit`, or `tfadv.classifier` does not accept the model.
        """
        # The policy decides on the scaling of the loss; the layers of the model cast the pixels, if they want to.
        super().__init__(autocast=False, **{"name": f"adversarial_{model.name}", "dtype": model.dtype_policy} | kwargs)
        self.defense, sizes = _parsed(defense), sizes_of(eps)
        if len(sizes) != len(self.defense.norms):
            norm = self.defense.norm
            wanted = f"a number for each of norm={norm}, such as (8 / 255, 12)" if "+" in norm else "one number"
            raise ValueError(f"eps must be {wanted}, for pixels in [0, 1], got {eps}.")
        if is_quantized(model):
            raise UserError(
                f"{model.name} is quantized, and can't be trained: harden the float model, then quantize it."
            )
        self.model, self.seed = model, seed
        self.eps = sizes[0] if len(sizes) == 1 else tuple(sizes)
        if len(sizes) > 1:
            self.defense = dataclasses.replace(self.defense, eps=self.eps)
        self.input_range = (float(input_range[0]), float(input_range[1]))
        # In a namespace, because Keras would list its layers and variables a second time.
        self._hidden = types.SimpleNamespace(classifier=classifier(model, input_range, quiet=True))
        shape = [s or 1024 for s in self.classifier.input_shape[1:]]
        for norm, size in zip(self.defense.norms, sizes):
            check_sizes([size], (0.0, 1.0), norm, shape)
        # Variables and not Python numbers, which would be compiled into the step.
        self._first, self._total = (tf.Variable(0, trainable=False, dtype=tf.int64) for _ in range(2))
        # Of `fit` so far: the least and the greatest of the pixels, and how far a label was from its class.
        self._pixels, self._mixed = (
            tf.Variable(
                start,
                trainable=False,
                dtype=tf.float32,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for start in ([self.input_range[0]] * 2, 0.0)
        )
        self._guesses = False  # whether the last epoch that `RobustAccuracy` measured did
        self.built = True
        stands_for(self, self.classifier)
        own = [name for name in _METHODS if getattr(type(model), name) is not getattr(keras.Model, name)]
        if own:
            LOG.warning("%s has %s of its own, which is not used in its training.", model.name, " and ".join(own))
        if augmentation_layers(model):
            LOG.warning(
                "%s augments images inside the model (%s), after the attack: the perturbation is turned and cropped "
                "with the image. Augment in the data set instead.",
                *(model.name, ", ".join(augmentation_layers(model)[:5])),
            )

    @property
    def classifier(self) -> keras.Model:
        """The model from float32 images in [0, 1] to logits that is attacked; its variables are those of `model`."""
        return self._hidden.classifier

    @property
    def output_names(self) -> list[str]:
        """Those of `model`, for losses and metrics by name."""
        return getattr(self.model, "output_names", None) or [self.model.name]

    @property
    def input_shape(self) -> Any:
        """That of `model`."""
        return self.model.input_shape

    @property
    def output_shape(self) -> Any:
        """That of `model`."""
        return self.model.output_shape

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Exports `model`, see `keras.Model.export`."""
        return self.model.export(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The outputs of `model`; of a step whose loss the defense computes, the losses as well."""
        if not isinstance(inputs, _Attacked):
            return self.model(inputs, training=training)
        losses, logits = self.defense.loss(self.classifier, inputs.images, inputs.classes, inputs.adversarial)
        return _Trained(outputs_of(self.classifier, logits), losses)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """See `keras.Model.compute_loss`."""
        if not isinstance(y_pred, _Trained):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        mean = _Given(name="of_defense")(y_pred.losses, y_pred.losses, sample_weight)
        return tf.add_n([mean, *(self._aggregate_additional_loss(loss) for loss in self.losses)])

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """See `keras.Model.compute_metrics`."""
        return super().compute_metrics(x, y, y_pred.outputs if isinstance(y_pred, _Trained) else y_pred, sample_weight)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attacks a batch and trains on it as Keras does."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        pixels, images = self._images(x)
        classes, mixed = self._classes(y)
        step = steps_of(self.optimizer)
        seed = tf.stack([tf.constant(self.seed, tf.int64), -1 - step])  # as on the command line
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            seed = tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
        size = self._size(step)
        if self.defense.eps_schedule == "uniform":
            size = sizes_of_images(size, tf.shape(images)[0], seed)
        adversarial = self.defense.perturb(self.classifier, images, classes, size, seed)
        if not _uses_compiled_loss(self.defense):
            self._mixed.assign(tf.maximum(tf.convert_to_tensor(self._mixed), mixed))
            return super().train_step((_Attacked(images, adversarial, classes), y, sample_weight))
        return super().train_step((self._as_given(x, pixels, images, adversarial), y, sample_weight))

    def _images(self, x: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """(the images as the user gives them, those as float32 (N, H, W, C) in [0, 1])."""
        tensors = tf.nest.flatten(x)
        if len(tensors) != 1:
            named = f" ({', '.join(map(str, x))})" if isinstance(x, dict) else ""
            raise ValueError(
                f"{self.model.name} is given {len(tensors)} inputs{named}, and attacks change one, the image: map the "
                "data set to (image, label), where that is all."
            )
        pixels = tf.cast(tensors[0], tf.float32)
        least, greatest = tf.unstack(tf.convert_to_tensor(self._pixels))
        self._pixels.assign([tf.minimum(least, tf.reduce_min(pixels)), tf.maximum(greatest, tf.reduce_max(pixels))])
        low, high = self.input_range
        images = pixels if (low, high) == (0.0, 1.0) else (pixels - low) / (high - low)
        shape = self.classifier.input_shape[1:]
        if images.shape.rank == 3:
            images = images[..., None]
        return pixels, images if images.shape.rank == 4 else tf.reshape(images, (-1, *shape))

    def _as_given(self, x: Any, pixels: tf.Tensor, images: tf.Tensor, attacked: tf.Tensor) -> Any:
        """Attacked images in the range, the shape and the structure of x; equal to x where nothing was changed."""
        low, high = self.input_range
        if (low, high) != (0.0, 1.0):  # scaled back, pixels that the attack leaves as they are would be rounded
            moved = tf.reshape(attacked - images, tf.shape(pixels)) * (high - low)
            inside = tf.reshape((attacked >= 0) & (attacked <= 1), tf.shape(pixels))
            rounded = tf.where(inside, tf.clip_by_value(pixels + moved, low, high), pixels + moved)
            given = tf.where(moved == 0, pixels, rounded)
        else:
            given = tf.reshape(attacked, tf.shape(pixels))
        return tf.nest.pack_sequence_as(x, [tf.ensure_shape(given, pixels.shape)])

    def _classes(self, y: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The classes of labels, and how far a label is from its class at most.

        Args:
          y: class numbers, one-hot labels, mixed labels (the class with the largest share), or 0 and 1.

        Returns:
          (int64 (N,), float32 ()).

        Raises:
          ValueError: there are no labels, or they are in a dict or several arrays.
        """
        if y is None or tf.nest.is_nested(y):
            given = f"has {', '.join(map(str, y))} by name" if isinstance(y, dict) else f"has {len(y or ())} arrays"
            raise ValueError(
                f"{self.model.name} is trained on one array of labels, and the data {given}: map the data to (image, "
                "label)."
            )
        y, width = tf.convert_to_tensor(y), self.classifier.output_shape[1]

        def numbers() -> tuple[tf.Tensor, tf.Tensor]:
            given = tf.reshape(y, (-1,))
            whole = tf.cast(tf.round(given) if y.dtype.is_floating else given, tf.int64)
            classes = tf.maximum(whole, 0)  # a loss may know -1
            return classes, _distance(given, classes)

        def rows() -> tuple[tf.Tensor, tf.Tensor]:
            classes = tf.argmax(y, axis=1)
            return classes, _distance(y, tf.one_hot(classes, width))

        if y.shape.rank == 2 and y.shape[1] is None:
            return tf.cond(tf.shape(y)[1] == width, rows, numbers)
        return rows() if y.shape.rank == 2 and y.shape[1] == width else numbers()

    def _size(self, step: tf.Tensor) -> tf.Tensor:
        """eps of a step, in the first norm, float32 (); the full one outside `fit`."""
        peak = tf.constant(tf.nest.flatten(self.eps)[0], tf.float64)
        if self.defense.eps_schedule == "ramp":
            total = tf.cast(self._total, tf.float64)
            ramp = (tf.cast(step - self._first, tf.float64) - CLEAN_SHARE * total) / (RAMP_SHARE * total)
            peak = tf.where(total > 0, peak * tf.clip_by_value(ramp, 0.0, 1.0), peak)
        return tf.cast(peak, tf.float32)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Any = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `keras.Model.fit`.

        Raises:
          ValueError: pixels in another range than `input_range`, or labels that are smoothed, mixed or below 0 with a
            defense that has a loss of its own; after the first batch, or at the end of an epoch.
        """
        own = _Position()
        # By name, as libraries that wrap `keras.Model.fit` to add a callback expect it (mlflow.keras.autolog).
        kwargs |= {"x": x, "y": y, "batch_size": batch_size, "epochs": epochs, "verbose": verbose}
        try:
            if not isinstance(callbacks, keras.callbacks.CallbackList):
                given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
                return super().fit(callbacks=[*given, own], **kwargs)
            own.set_model(self)
            own.set_params(callbacks.params)
            callbacks.callbacks.append(own)
            try:
                return super().fit(callbacks=callbacks, **kwargs)
            finally:
                callbacks.callbacks.remove(own)
        finally:
            self._total.assign(0)

    def _check_data(self) -> None:
        """Raises the errors of `fit` for its images and labels so far."""
        if not self._mixed.numpy() <= _LABEL_TOLERANCE:
            raise ValueError(
                f"{self.defense.label} has a loss of its own, of class numbers or one-hot labels, and these labels are "
                "smoothed, mixed or below 0: give such labels, or a defense that trains with the loss of compile, such "
                "as nfgsm."
            )
        (low, high), (least, greatest) = self.input_range, self._pixels.numpy().tolist()
        if low == 0 and high > 2 and 0 < greatest <= 1:
            raise ValueError(
                f"the images have pixels from {least:g} to {greatest:g}, and the model expects {low:g} to {high:g}: "
                f"multiply them by {high:g}, or give AdversarialModel input_range=(0, 1)."
            )
        tolerance = _TOLERANCE * (high - low)
        if not (low - tolerance <= least and greatest <= high + tolerance):
            raise ValueError(
                f"the images have pixels from {least:g} to {greatest:g}, and input_range is ({low:g}, {high:g}): give "
                "AdversarialModel the range that the model expects, such as input_range=(0, 255)."
            )

    def get_config(self) -> dict[str, Any]:
        """The model and the arguments, for `save`.

        Raises:
          ValueError: the defense is none of `tfadv.defenses.DEFENSES`, so that nothing could load it.
        """
        if self.defense.name not in DEFENSES or DEFENSES[self.defense.name] is not type(self.defense):
            raise ValueError(f"{self.defense.label} is not registered in DEFENSES: save robust.model instead.")
        return super().get_config() | {
            "model": keras.saving.serialize_keras_object(self.model),
            "defense": (
                self.defense if isinstance(self.eps, float) else dataclasses.replace(self.defense, eps=None)
            ).label,
            "eps": self.eps,
            "input_range": self.input_range,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> AdversarialModel:
        """The inverse of `get_config`."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**config | {"model": model})


class _Position(keras.callbacks.Callback):
    """Tells the model where in `fit` a step is, for the schedule of eps, and checks pixels and labels."""

    def on_train_begin(self, logs: Any = None) -> None:
        steps, ramps = self.params["steps"], self.model.defense.eps_schedule == "ramp"
        if ramps and steps is None:
            LOG.warning(
                "the data set does not tell its length, so eps is %s from the first step on: give fit(steps_per_epoch="
                "...), and it grows during the first half.",
                " and ".join(f"{size:g}" for size in tf.nest.flatten(self.model.eps)),
            )
        self.model._total.assign((steps or 0) * self.params["epochs"])
        self.model._pixels.assign([self.model.input_range[0]] * 2)
        self.model._mixed.assign(0.0)
        self._begun = self._checked = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self._begun:  # `epoch` is above 0 where an earlier `fit` is continued
            self.model._first.assign(int(steps_of(self.model.optimizer)) - epoch * (self.params["steps"] or 0))
        self._begun = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._checked:
            self.model._check_data()
        self._checked = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model._check_data()


def _parsed(defense: str | Defense) -> OnlineDefense:
    """The defense that a text names, or the given one, if `fit` can train with it."""
    if isinstance(defense, str):
        named = specs.split_specs(defense, DEFENSES)
        if len(named) != 1:
            raise ValueError(f"defense must name one defense, got {defense!r}.")
        defense = specs.build_with(*named[0], DEFENSES)
    if not isinstance(defense, Defense):
        raise ValueError(f"defense must be a text such as 'nfgsm(share=0.5)', got {type(defense).__name__}.")
    if not isinstance(defense, OnlineDefense):
        stored = defense.images == "stored"
        way = "needs stored images, which the command line makes" if stored else "trains as fit does"
        raise ValueError(f"{defense.label} does not attack in each step: it {way}. Give one such as 'nfgsm'.")
    given, defaults = defense.settings(), defense._defaults().settings()
    wrong = [name for name in _OF_COMPILE_AND_FIT if name in given and given[name] != defaults[name]]
    if wrong:
        raise ValueError(f"{defense.label}: {', '.join(wrong)} is for the command line; here, compile and fit say it.")
    if given["eps"] != defaults["eps"]:
        raise ValueError(f"{defense.label}: eps is for the command line; here it is an argument of AdversarialModel.")
    if getattr(defense, "awp", 0):
        raise ValueError(f"{defense.label}: awp moves the weights within a step, which only the command line does.")
    return defense


def _uses_compiled_loss(defense: OnlineDefense) -> bool:
    """Whether the loss given to `compile` is that of training, and not only that of validation."""
    inherited = type(defense).loss is AdversarialTraining.loss
    return inherited and isinstance(defense, AdversarialTraining) and not defense.smoothing


def _distance(given: tf.Tensor, exact: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.abs(tf.cast(given, tf.float32) - tf.cast(exact, tf.float32)))


def steps_of(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """How many steps an optimizer has made, with those that only accumulate gradients; int64 ()."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    return tf.cast(optimizer._iterations.value, tf.int64)
