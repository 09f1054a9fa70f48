"""Accuracy, clean and under any attack: `evaluate`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.attacks.cost import Cost
from tfadv.attacks.gradient import check_inputs, compiled_logits
from tfadv.datasets.arrays import as_arrays
from tfadv.datasets.batches import full_batches, perturbed, to_float
from tfadv.datasets.storage import Images
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.result import CostSummary, Result
from tfadv.models.compiled import PerModel
from tfadv.runtime.console import progress_disabled
from tfadv.runtime.devices import Devices


@dataclasses.dataclass(frozen=True)
class Execution:
    """How an evaluation runs; nothing here changes which images are robust.

    Attributes:
      devices: where attacks run; the model is built in the scope of their strategy.  None is the default device.
      progress: function that is called with the number of images completed since its last call.
      resume: an object that saves and restores the state of a long attack, see `tfadv.attacks.base`.
      keep_images: whether the result holds the adversarial images.
    """

    devices: Devices | None = None
    progress: Callable[[int], Any] | None = None
    resume: Any = None
    keep_images: bool = False


class StoredPerturbations:
    """An attack that applies perturbations computed before, such as those of a surrogate; measures transfer."""

    name = "stored"

    def __init__(self, perturbations: Images, clean_correct: np.ndarray | None = None) -> None:
        """Takes the perturbations of all images that will be evaluated.

        Args:
          perturbations: int8 (N, H, W, C) in units of eps / 127.
          clean_correct: bool (N,), if it is known already, which saves a forward pass per image; or None.
        """
        self.perturbations, self.clean_correct = perturbations, clean_correct

    def settings(self) -> dict:
        """No settings."""
        return {}


class FixedImages:
    """An attack that returns adversarial images computed before, on any model; measures transfer."""

    name = "fixed"

    def __init__(self, adversarial: np.ndarray | tf.Tensor) -> None:
        """`adversarial`: float32 (E, N, H, W, C) in [0, 1], one set per eps."""
        self.adversarial = adversarial

    def settings(self) -> dict:
        """No settings."""
        return {}

    def __call__(self, model: Any, x: Any, y: Any, eps: Any, **_: Any) -> np.ndarray | tf.Tensor:
        """Returns the images, whatever the arguments."""
        return self.adversarial


def evaluate(
    model: Any,
    images: Any,
    labels: Any = None,
    attack: Any = "autoattack",
    eps: float | Sequence[float] = 8 / 255,
    *,
    batch_size: int = 256,
    seed: int = 0,
    execution: Execution | None = None,
) -> Result:
    """Attacks images and counts which of them the model still classifies correctly.

    FGSM runs in one pass: one forward and backward pass per image gives the clean
    prediction and the perturbation for all eps.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K); run with `training=False`.
        `tfadv.classifier` makes one of any classifier.
      images: uint8 from 0 to 255, or float in [0, 1], (N, H, W, C); or a `tf.data.Dataset` or `keras.utils.PyDataset`
        of (images, labels).
      labels: the true classes, int (N,) or one-hot (N, K); None where `images` is a data set.
      attack: an attack such as `tfadv.attacks.PGD(steps=50)`, or its text such as "pgd(steps=50)"; None
        evaluates clean images only.
      eps: the size of the perturbation for pixels in [0, 1], a number >= 0 or a sequence of numbers.
      batch_size: number of images per batch.
      seed: int, for the attack's random numbers.
      execution: how it runs; None shows a progress bar in a terminal and keeps the adversarial images.

    Returns:
      A `Result`.

    Raises:
      ValueError: an argument has the wrong type, shape or range, or the model's last layer is a softmax.
      UserError: the attack or a setting is unknown.
    """
    if isinstance(attack, str):
        from tfadv.attacks import parse

        attack = parse(attack)
    if getattr(attack, "targeted", False):
        raise ValueError("a targeted attack moves images to given classes: it says nothing about robust accuracy.")
    images, labels = as_arrays(images, labels)
    _check(model, images, labels, attack, eps)
    hidden = progress_disabled() if execution is None else True
    with tqdm(total=len(labels), unit="image", leave=False, disable=hidden) as bar:
        execution = execution or Execution(progress=bar.update, keep_images=True)
        return _evaluated(model, images, labels, attack, eps, batch_size, seed, execution)


def _evaluated(
    model: Any,
    images: np.ndarray | tf.Tensor,
    labels: np.ndarray,
    attack: Any,
    eps: float | Sequence[float],
    batch_size: int,
    seed: int,
    execution: Execution,
) -> Result:
    """See `evaluate`."""
    epsilons = [] if attack is None else [float(e) for e in np.atleast_1d(eps)]
    devices = execution.devices or Devices()
    devices.check_batch(batch_size)
    execution = dataclasses.replace(execution, devices=devices)
    started = time.monotonic()
    cost, kept = Cost(), None
    if attack is None:
        clean = predict(model, to_float(images), batch_size, devices) == labels
        adversarial = np.zeros((0, len(labels)), bool)
    elif isinstance(attack, StoredPerturbations):
        clean, adversarial = _evaluate_stored(model, images, labels, attack, epsilons, batch_size, execution)
    elif _has_one_pass(attack) and not execution.keep_images:
        clean, adversarial = _evaluate_one_pass(model, images, labels, attack, epsilons, batch_size, execution)
        cost.add(gradients=len(labels))
    else:
        x = to_float(images)
        common = dict(seed=seed, batch_size=batch_size, cost=cost, progress=execution.progress, resume=execution.resume)
        on_devices = attack if isinstance(attack, FixedImages) else OnAllDevices(attack, devices)
        attacked = on_devices(model, x, labels, epsilons, **common)
        clean = predict(model, x, batch_size, devices) == labels
        adversarial = np.stack([predict(model, x_adv, batch_size, devices) == labels for x_adv in attacked])
        kept = np.asarray(attacked[0] if np.ndim(eps) == 0 else attacked) if execution.keep_images else None
    return Result(
        attack=None if attack is None else attack.name,
        settings={} if attack is None else attack.settings(),
        eps=epsilons[0] if epsilons and np.ndim(eps) == 0 else tuple(epsilons),
        clean_correct=clean,
        adversarial_correct=adversarial,
        cost=CostSummary(
            cost.gradients, cost.forwards, round(time.monotonic() - started, 2), cost.fallbacks, cost.remaining
        ),
        adversarial=kept,
    )


def _check(
    model: Any, images: np.ndarray | tf.Tensor, labels: np.ndarray, attack: Any, eps: float | Sequence[float]
) -> None:
    """Checks the arguments of `evaluate`."""
    # A softmax hides the gradient, which clean images and images that exist already do not need.
    needs_gradient = attack is not None and not isinstance(attack, (StoredPerturbations, FixedImages))
    sizes = 0.0 if attack is None else eps
    check_inputs(model if needs_gradient else None, to_float(images), labels, sizes, (0.0, 1.0))
    if not len(labels):
        raise ValueError("there must be at least one image.")


def _has_one_pass(attack: Any) -> bool:
    return hasattr(attack, "one_pass") and getattr(attack, "precision", "float32") == "float32"


def predict(model: Any, images: np.ndarray | tf.Tensor, batch_size: int, devices: Devices | None = None) -> np.ndarray:
    """The classes that a model predicts, int64 (N,), for float32 images (N, H, W, C) in [0, 1]."""
    logits_of_batch = (devices or Devices()).gather(compiled_logits, model)
    images, classes = np.asarray(images), []
    for rows, new in full_batches(len(images), batch_size):
        logits = logits_of_batch(images[rows])
        classes.append(np.argmax(logits, axis=1)[:new])
    return np.concatenate(classes)


def _correct(model: Any, adversarial: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """bool (E, N): which adversarial images (E, N, H, W, C) are classified as y (N,)."""
    levels = tf.shape(adversarial)[0]
    logits = model(tf.reshape(adversarial, (-1, *adversarial.shape[2:])), training=False)
    return tf.reshape(tf.argmax(logits, axis=1), (levels, -1)) == y


def _one_pass_correct(model: Any, images: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, *, attack: Any) -> tf.Tensor:
    """bool (1 + E, N): correct on the clean image, and on the adversarial images."""
    logits, adversarial = attack.one_pass(model, to_float(images), y, eps)
    return tf.concat([(tf.argmax(logits, axis=1) == y)[None], _correct(model, adversarial, y)], axis=0)


def _stored_correct(model: Any, images: tf.Tensor, y: tf.Tensor, perturbations: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    """bool (E, N): correct on the stored adversarial images."""
    return _correct(model, perturbed(to_float(images), perturbations, eps[:, None, None, None, None]), y)


_compiled_one_pass = PerModel(_one_pass_correct)
_compiled_stored = PerModel(_stored_correct)


def _one_pass_batch(model: Any, images: Any, labels: Any, *, epsilons: tuple[float, ...], attack: Any) -> tf.Tensor:
    return _compiled_one_pass(model, images, labels, tf.constant(epsilons, tf.float32), attack=attack)


def _stored_batch(
    model: Any, images: Any, labels: Any, perturbations: Any, *, epsilons: tuple[float, ...]
) -> tf.Tensor:
    return _compiled_stored(model, images, labels, perturbations, tf.constant(epsilons, tf.float32))


def _evaluate_one_pass(model, images, labels, attack, epsilons, batch_size, execution):
    """(clean bool (N,), adversarial bool (E, N)) of an attack that has `one_pass`."""
    of_batch = execution.devices.gather(_one_pass_batch, model, axis=1, epsilons=tuple(epsilons), attack=attack)
    correct = _in_batches(of_batch, (images, labels), batch_size, execution.progress)
    return correct[0], correct[1:]


def _evaluate_stored(model, images, labels, attack, epsilons, batch_size, execution):
    """(clean bool (N,), adversarial bool (E, N)) on stored perturbations."""
    of_batch = execution.devices.gather(_stored_batch, model, axis=1, epsilons=tuple(epsilons))
    adversarial = _in_batches(of_batch, (images, labels, attack.perturbations), batch_size, execution.progress)
    clean = attack.clean_correct
    if clean is None:
        clean = predict(model, to_float(images), batch_size, execution.devices) == labels
    return clean, adversarial


def _in_batches(
    function: Callable, arrays: Sequence[np.ndarray], batch_size: int, progress: Callable[[int], Any] | None
) -> np.ndarray:
    """Applies a function of batches, whose result has the batch at axis 1, to full batches; (…, N)."""
    arrays, results = [np.asarray(array) for array in arrays], []
    for rows, new in full_batches(len(arrays[0]), batch_size):
        results.append(function(*(array[rows] for array in arrays)).numpy()[:, :new])
        if progress:
            progress(new)
    return np.concatenate(results, axis=1)
