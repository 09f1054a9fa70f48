"""Accuracy, clean and under any attack: `evaluate`."""

from __future__ import annotations

import dataclasses
import logging
import math
import numbers
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.attacks.base import Attack
from tfadv.attacks.cost import Cost
from tfadv.attacks.gradient import check_inputs, compiled_has_gradient, compiled_logits, sizes_of
from tfadv.attacks.norms import COUNTS, get_norm
from tfadv.attacks.randomness import ORDER, generators
from tfadv.datasets.arrays import LabeledImages
from tfadv.datasets.batches import full_batches, to_float
from tfadv.errors import check_whole_number
from tfadv.evaluation.distributed import OnAllDevices
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.evaluation.result import CostSummary, Result, concatenate, is_precise
from tfadv.evaluation.rounding import has_8_bits, rounded
from tfadv.evaluation.sequential import BLOCK, Sample
from tfadv.models.compiled import PerModel, deployed_layers
from tfadv.models.expectation import passes_of
from tfadv.models.image_model import fitted, image_model
from tfadv.models.logits import input_range_of
from tfadv.runtime.console import progress_disabled
from tfadv.runtime.devices import Devices

LOG = logging.getLogger(__name__)
DEFAULT_EPS = 8 / 255
_ENOUGH = 20  # images that tell whether a model is better than guessing
_GRADIENTS_CHECKED = 256  # robust images per piece of which it is checked whether they have a gradient
_PIECE_BYTES = 2**26  # of float32 images that are attacked in one piece


@dataclasses.dataclass(frozen=True)
class Execution:
    """How an evaluation runs; nothing here changes which images are robust.

    Attributes:
      devices: where attacks run; the model is built in the scope of their strategy.  None is the default device.
      progress: function that is called with the number of images completed since its last call.
      resume: an object that saves and restores the state of a long attack, see `tfadv.attacks.base`.
    """

    devices: Devices | None = None
    progress: Callable[[int], Any] | None = None
    resume: Any = None


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
    eps: float | str | Sequence[float | str] | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
    first: int = 0,
    keep_images: bool = False,
    precision: float | None = None,
    execution: Execution | None = None,
) -> Result:
    """Attacks images and counts which of them the model still classifies correctly.

    FGSM runs in one pass: one forward and backward pass per image gives the clean
    prediction and the perturbation for all eps.  A data set is read batch by batch and not collected.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K); run with `training=False`.
        `tfadv.classifier` makes one of any classifier.
      images: from 0 to 255 as whole numbers, or in [0, 1] as floating-point numbers, (N, H, W, C); floating-point
        numbers outside [0, 1] are read in the range that `tfadv.classifier` was called with.  (N, H, W) and (N, D) for
        models that take these.  Or a `tf.data.Dataset` or `keras.utils.PyDataset` of (images, labels).
      labels: the true classes, int (N,) or one-hot (N, K); None where `images` is a data set.
      attack: an attack such as `tfadv.attacks.PGD(steps=50)`, or its text such as "pgd(steps=50)"; None
        evaluates clean images only.
      eps: the size of the perturbation for pixels in [0, 1]: a number >= 0, a text such as "8/255", or a sequence.
        None: as far as images can be, where the attack looks for the nearest adversarial image, and the result has
        the `distances` of the images; none, where the attack has no eps, such as "fog"; 8 / 255 otherwise.  "sparse-rs"
        needs one, a number of pixels.
      batch_size: number of images per batch.
      seed: int, for the attack's random numbers.
      first: number of the first image.  The random numbers of an image depend on its number, so that the parts of a
        data set give the same results as the whole.
      keep_images: whether the result holds the adversarial images, which take four bytes per pixel and eps.
      precision: draws images in random order until the 95% intervals of the clean and of all robust accuracies end
        within this distance of the accuracies, such as 0.02 for ±2 percentage points.  The intervals are then those of
        `tfadv.evaluation.sequential`, and `Result.sample` has the numbers of the images.  None attacks all images.
      execution: how it runs; None shows a progress bar in a terminal.

    Returns:
      A `Result`.

    Raises:
      ValueError: an argument has the wrong type, shape or range, or the model's last layer is a softmax; or `precision`
        is given with a data set, or with an attack that has no accuracy of single images at an eps.
      UserError: the attack or a setting is unknown.
    """
    attack = _untargeted(attack)
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, None), ("first", first, 0)):
        check_whole_number(name, value, least)
    sizes = _sizes(attack, eps)
    data = LabeledImages(images, labels, input_range_of(model), prepared=execution is not None)
    model = image_model(model)
    evaluation = _Evaluation(model, attack, sizes, batch_size, seed, keep_images, precision)
    evaluation.check_precision(data)
    if execution is not None:
        return evaluation.run(data, first, execution)[0]
    with tqdm(total=data.n, unit="image", leave=False, disable=progress_disabled()) as bar:
        result, classes = evaluation.run(data, first, Execution(progress=bar.update))
    _warn(result, classes, model)
    return result


def _untargeted(attack: Any) -> Any:
    """The attack of a text, or an attack itself, checked; None for clean images."""
    if isinstance(attack, str):
        from tfadv.attacks import parse

        attack = parse(attack)
    if attack is not None and (not hasattr(attack, "settings") or isinstance(attack, type)):
        raise ValueError(f"attack must be an attack, a text such as 'pgd(steps=20)', or None; got {attack!r}.")
    if getattr(attack, "targeted", False):
        raise ValueError("a targeted attack moves images to given classes: it says nothing about robust accuracy.")
    return attack


def _sizes(attack: Any, eps: Any) -> float | tuple[float, ...] | None:
    """`eps` as the result has it: one number, a tuple, or None without a limit."""
    if attack is None:
        return ()
    counts = getattr(attack, "norm", "") in COUNTS  # the default is no number of pixels
    if isinstance(attack, Attack) and (eps is not None or counts):
        attack.check_eps(eps)
    if eps is None:
        return DEFAULT_EPS if getattr(attack, "limited", True) and getattr(attack, "has_eps", True) else None
    sizes = sizes_of(eps)
    return sizes[0] if isinstance(eps, str) or np.ndim(eps) == 0 else tuple(sizes)


def _warn(result: Result, labels: np.ndarray, model: Any) -> None:
    """Says why the accuracies may not mean what they seem to."""
    name = getattr(model, "name", "the model")
    if not all(np.isfinite(np.asarray(w, np.float32)).all() for w in getattr(model, "weights", ())):
        LOG.warning("%s has weights that are NaN or infinite: its accuracies mean nothing.", name)
    if result.upper_bound():
        LOG.warning("%s: %s", name, result.upper_bound())
    share = largest_share(np.bincount(labels).tolist())
    if len(labels) >= _ENOUGH and hardly_better_than_guessing(result.clean_accuracy, share):
        LOG.warning(
            "%s classifies %.1f%% of the clean images correctly, hardly more than guessing: does it expect other "
            "pixels (tfadv.classifier(model, input_range=(0, 255))), or other numbers for the classes?",
            *(name, 100 * result.clean_accuracy),
        )


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The arguments of `evaluate` that all pieces of the images share; `eps` as the result has it."""

    model: Any
    attack: Any
    eps: float | tuple[float, ...] | None
    batch_size: int
    seed: int
    keep_images: bool
    precision: float | None

    @property
    def epsilons(self) -> list[float]:
        """The sizes; [] without a limit."""
        return [] if self.eps is None else np.atleast_1d(self.eps).tolist()

    def run(self, data: LabeledImages, first: int, execution: Execution) -> tuple[Result, np.ndarray]:
        """(the result of the images, their classes int64 (N,)); `first` is the number of the first image."""
        started, results, classes, numbers = time.monotonic(), [], [], []
        devices = execution.devices or Devices()
        devices.check_batch(self.batch_size)
        execution = dataclasses.replace(execution, devices=devices)
        for x, y, rows in self.pieces(data):
            results.append(self.of_piece(x, y, first + rows, execution))
            classes.append(y)
            numbers.append(rows)
            if self.precision is not None and is_precise(results, self.precision):
                break
        result, drawn = concatenate(results), np.concatenate(numbers)
        if self.precision is not None and data.n is not None:
            order = np.argsort(drawn)
            sample = Sample(drawn[order], data.n, self.precision)
            result = dataclasses.replace(result.take(order), sample=sample)
        cost = dataclasses.replace(result.cost, seconds=round(time.monotonic() - started, 2))
        return dataclasses.replace(result, cost=cost), np.concatenate(classes)

    def check_precision(self, data: LabeledImages) -> None:
        """Raises ValueError where images can't be drawn until intervals are narrow."""
        precision = self.precision
        if precision is None:
            return
        if not isinstance(precision, numbers.Real) or not 0 < precision < 1:
            raise ValueError(f"precision must be above 0 and below 1, such as 0.02 for ±2 points; got {precision!r}.")
        if data.n is None:
            raise ValueError(
                "precision draws images in random order, and a data set has its own: give arrays of images and labels."
            )
        if isinstance(self.attack, FixedImages):
            raise ValueError(f"precision is for attacks that are run: {self.attack.name} has the images of all.")
        if self.sets or (self.eps is None and getattr(self.attack, "has_eps", True)):
            raise ValueError(
                f"precision is for the accuracy at an eps, and {self.attack.name} is measured by "
                f"{'sets of images' if self.sets else 'distances: give an eps'}."
            )

    def pieces(self, data: LabeledImages) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(images, labels, row numbers int64 (M,)): in order, or in random order where there is a precision."""
        if self.precision is None or not data.n:
            row = 0
            for x, y in data.pieces(self.piece_size(data.n)):
                yield x, y, np.arange(row, row + len(y))
                row += len(y)
            return
        (generator,) = generators(self.seed, ORDER, np.zeros(1, np.int64), np.zeros(1, np.int64))
        order = generator.permutation(data.n)
        for start in range(0, data.n, BLOCK):
            rows = np.sort(order[start : start + BLOCK])
            yield *data.take(rows), rows

    def piece_size(self, n: int | None) -> int:
        """How many images are attacked in one piece: many, because AutoAttack regroups those that remain."""
        if isinstance(self.attack, FixedImages) and n:
            return n  # it holds those of all
        shape = getattr(self.model, "input_shape", None) or ()
        pixels = math.prod(size or 1 for size in shape[1:]) if isinstance(shape, tuple) else 1
        return self.batch_size * max(1, _PIECE_BYTES // (4 * max(pixels, 1) * self.batch_size))

    def of_piece(self, images: np.ndarray, labels: np.ndarray, numbers: np.ndarray, execution: Execution) -> Result:
        """The result of some of the images; `numbers`: theirs, int64 (M,), see `evaluate`."""
        model, attack, devices, shape = self.model, self.attack, execution.devices, images.shape
        assert devices is not None
        cost, images = Cost(), fitted(model, images)
        kept = of_8_bits = distances = has_gradient = None
        self._check(images, labels)
        if attack is None:
            clean = predict(model, images, self.batch_size, devices) == labels
            adversarial = np.zeros((0, len(labels)), bool)
        elif _has_one_pass(attack) and not self.keep_images:
            clean, adversarial, has_gradient = _evaluate_one_pass(
                model, images, labels, attack, self.epsilons, self.batch_size, execution
            )
            cost.add(gradients=len(labels) * passes_of(model))
        else:
            x = to_float(images)
            common: dict[str, Any] = dict(seed=self.seed, batch_size=self.batch_size, cost=cost)
            common |= dict(progress=execution.progress, resume=execution.resume)
            if isinstance(attack, Attack):
                common["image_numbers"] = numbers
            clean = predict(model, x, self.batch_size, devices) == labels
            if self.sets:
                adversarial, kept = self._on_sets(x, labels, devices, **common)
            else:
                on_devices = attack if isinstance(attack, FixedImages) else OnAllDevices(attack, devices)
                attacked = on_devices(model, x, labels, None if self.eps is None else self.epsilons, **common)
                predicted = [predict(model, x_adv, self.batch_size, devices) for x_adv in attacked]
                adversarial, kept = np.stack(predicted) == labels, attacked if self.keep_images else None
                if self.eps is None and getattr(attack, "has_eps", True):
                    distances = self._distances(x, attacked[0], clean, adversarial[0])
                if self.eps is not None and (self.keep_images or deployed_layers(model)):
                    of_8_bits = self._rounded_correct(np.asarray(x), labels, attacked, devices)
            if kept is not None:
                several = isinstance(self.eps, tuple) or len(self.sets) > 1
                kept = np.asarray(kept).reshape(*((len(kept),) if several else ()), *shape)
        robust = np.flatnonzero(clean & adversarial.all(axis=0) & self.follows_gradient)[:_GRADIENTS_CHECKED]
        if has_gradient is None and len(robust):
            has_gradient = np.zeros(len(labels), bool)
            has_gradient[robust] = self._has_gradient(images[robust], labels[robust])
        return Result(
            attack=None if attack is None else attack.name,
            settings=self._settings(images.shape[1:]),
            eps=self.eps,
            sets=tuple((each.name, each.settings()["severity"]) for each in self.sets),
            clean_correct=clean,
            adversarial_correct=adversarial,
            cost=CostSummary(cost.gradients, cost.forwards, 0.0, cost.fallbacks, cost.remaining),
            adversarial=kept,
            distances=distances,
            gradients_checked=len(robust),
            without_gradient=0 if has_gradient is None else int((~has_gradient[robust]).sum()),
            rounded_correct=of_8_bits,
        )

    def _rounded_correct(self, x: np.ndarray, labels: np.ndarray, attacked: Any, devices: Devices) -> np.ndarray | None:
        """See `Result.rounded_correct`; images float32 (N, H, W, C), attacked (E, N, H, W, C)."""
        if not has_8_bits(x):
            return None
        norm, found = getattr(self.attack, "norm", "linf"), []
        for x_adv, eps in zip(attacked, self.epsilons):
            images = rounded(np.asarray(x_adv), x, eps, norm)
            found.append(predict(self.model, images, self.batch_size, devices) == labels)
        return np.stack(found)

    @property
    def sets(self) -> tuple[Attack, ...]:
        """The attacks that each make a set of images, see `Attack.sets`."""
        return self.attack.sets if isinstance(self.attack, Attack) else ()

    def _settings(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the result says of the attack, on images of a shape (H, W, C)."""
        if isinstance(self.attack, Attack):
            return self.attack.settings_for(shape)
        return {} if self.attack is None else self.attack.settings()

    def _on_sets(
        self, x: tf.Tensor, labels: np.ndarray, devices: Devices, *, progress: Any, resume: Any, **common: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(which images are classified correctly, bool (E, N); the images where they are kept), set after set."""
        correct, kept, n = [], [], len(labels)
        resume = resume if devices.workers == 1 else None  # all hosts have to attack the same sets together
        for i, one in enumerate(self.sets):
            saved = resume.load() if resume else None
            if saved:
                correct.append(saved[1][0])
            else:
                images = OnAllDevices(one, devices)(self.model, x, labels, None, **common)[0]
                correct.append(predict(self.model, images, self.batch_size, devices) == labels)
                kept += [images] if self.keep_images else []
            if resume and not saved:
                resume.done([correct[-1]])
            if progress:
                progress(n * (i + 1) // len(self.sets) - n * i // len(self.sets))
        return np.stack(correct), np.stack(kept) if kept else None

    @property
    def follows_gradient(self) -> bool:
        """Whether the attack fails where there is no gradient, and images may move at all."""
        moves = self.eps is None or max(self.epsilons, default=0.0) > 0
        return isinstance(self.attack, Attack) and self.attack.uses_gradient and moves

    def _distances(self, x: tf.Tensor, nearest: np.ndarray, clean: np.ndarray, correct: np.ndarray) -> np.ndarray:
        """float64 (N,): `Result.distances` of images x, of which `nearest` are the adversarial ones, both in [0, 1]."""
        norm = get_norm(getattr(self.attack, "norm", "linf"))
        # One by one: the rounding of a sum over pixels may depend on how many images are summed together.
        found = [norm.norm(nearest[i : i + 1] - x[i : i + 1]).numpy().item() for i in range(len(clean))]
        return np.where(clean, np.where(correct, np.inf, found), 0.0)

    def _has_gradient(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """bool (N,): whether the loss of the attack has a gradient; the margin stands for all but the cross-entropy."""
        loss = "ce" if getattr(self.attack, "loss", "ce") == "ce" else "cw"
        found = []
        for rows, new in full_batches(len(labels), self.batch_size):
            found.append(compiled_has_gradient(self.model, to_float(images[rows]), labels[rows], loss=loss)[:new])
        return np.concatenate(found)

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Checks images (N, H, W, C), labels and sizes; of images of whole numbers, the range is known."""
        # A softmax hides the gradient, which clean images and images that exist already do not need.
        needs_gradient = self.attack is not None and not isinstance(self.attack, FixedImages)
        sizes, norm = self.epsilons or 0.0, getattr(self.attack, "norm", "linf")
        x = images if images.dtype == np.float32 else np.broadcast_to(np.float32(0), images.shape)
        check_inputs(self.model, x, labels, sizes, (0.0, 1.0), norm, logits=needs_gradient)


def _has_one_pass(attack: Any) -> bool:
    return hasattr(attack, "one_pass") and getattr(attack, "precision", "float32") == "float32"


def predict(model: Any, images: np.ndarray | tf.Tensor, batch_size: int, devices: Devices | None = None) -> np.ndarray:
    """The classes that a model predicts, int64 (N,), for images (N, H, W, C), uint8 or float32 in [0, 1]."""
    logits_of_batch = (devices or Devices()).gather(compiled_logits, model)
    images, classes = np.asarray(images), []
    for rows, new in full_batches(len(images), batch_size):
        logits = logits_of_batch(to_float(images[rows]))
        classes.append(np.argmax(logits, axis=1)[:new])
    return np.concatenate(classes)


def _one_pass_correct(model: Any, images: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, *, attack: Any) -> tf.Tensor:
    """bool (2 + E, N): whether the image has moved, correct on the clean image, and on the adversarial images."""
    x = to_float(images)
    logits, adversarial = attack.one_pass(model, x, y, eps)
    moved = tf.reduce_any(adversarial[tf.argmax(eps)] != x, axis=(1, 2, 3))
    attacked = model(tf.reshape(adversarial, (-1, *x.shape[1:])), training=False)
    correct = tf.reshape(tf.argmax(attacked, axis=1), (tf.size(eps), -1)) == y
    return tf.concat([[moved, tf.argmax(logits, axis=1) == y], correct], axis=0)


_compiled_one_pass = PerModel(_one_pass_correct)


def _one_pass_batch(model: Any, images: Any, labels: Any, *, epsilons: tuple[float, ...], attack: Any) -> tf.Tensor:
    return _compiled_one_pass(model, images, labels, tf.constant(epsilons, tf.float32), attack=attack)


def _evaluate_one_pass(model, images, labels, attack, epsilons, batch_size, execution):
    """(clean bool (N,), adversarial bool (E, N), whether the image has moved, bool (N,)); the attack has `one_pass`."""
    of_batch = execution.devices.gather(_one_pass_batch, model, axis=1, epsilons=tuple(epsilons), attack=attack)
    images, results = np.asarray(images), []
    for rows, new in full_batches(len(labels), batch_size):
        results.append(of_batch(images[rows], labels[rows]).numpy()[:, :new])
        if execution.progress:
            execution.progress(new)
    correct = np.concatenate(results, axis=1)
    return correct[1], correct[2:], correct[0]
