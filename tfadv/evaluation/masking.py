"""Diagnostics of masked gradients: what to find out about a model before you trust its robust accuracy.

A defense may hide the gradient instead of becoming robust. Attacks that need the gradient then fail, and the accuracy
under them says nothing (Athalye et al. 2018, https://arxiv.org/abs/1802.00420). `collect_diagnostics` runs the attacks
that reveal this on a few images and records the outcome; `checks.run_checks` interprets it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient
from tfadv.attacks.apgd import APGD
from tfadv.attacks.fgsm import FGSM, direction
from tfadv.attacks.pgd import PGD
from tfadv.attacks.square import Square
from tfadv.datasets.arrays import as_arrays
from tfadv.datasets.batches import to_float
from tfadv.errors import check_whole_number
from tfadv.evaluation import checks
from tfadv.evaluation.checks import TOLERATED_CHANGE, Check, run_checks
from tfadv.evaluation.evaluator import Execution, FixedImages, evaluate
from tfadv.evaluation.result import CostSummary
from tfadv.models.compiled import returns_labels
from tfadv.models.expectation import Expectation, passes_of
from tfadv.models.image_model import fitted, image_model
from tfadv.models.logits import input_range_of
from tfadv.models.random_layers import random_layers

_SUM_TOLERANCE = 1e-3  # how far from 1 the sum of probabilities may be: bfloat16 rounds by so much
_RUNS = 3  # forward passes that have to agree


@dataclasses.dataclass(frozen=True)
class DiagnosticSettings:
    """How thoroughly a model is examined.

    Attributes:
      steps: number of steps of PGD, >= 1.
      factor: the longer attacks take this many times the steps, or restarts, of PGD; >= 2.
      targets: number of classes that APGD-T targets; at most K - 1 are used.
      queries: number of queries of Square Attack.
      batch_size: number of images per batch.
      seed: int, for the random numbers of the attacks.
    """

    steps: int = 20
    factor: int = 5
    targets: int = 3
    queries: int = 1000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("factor", 2), ("targets", 1), ("queries", 1), ("batch_size", 1)):
            check_whole_number(name, getattr(self, name), least)


def check_gradient_masking(
    model: Any,
    x: Any,
    y: Any = None,
    eps: float = 8 / 255,
    *,
    surrogate: Any = None,
    settings: DiagnosticSettings | None = None,
) -> list[Check]:
    """Looks for signs that a model hides its gradient instead of being robust.

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K).
      x: images in any form that `evaluate` takes; 128 to 256 images are enough.
      y: labels in any form that `evaluate` takes; None where `x` is a data set.
      eps: a number > 0, the size of the perturbation for pixels in [0, 1].
      surrogate: another such model, trained without the defense, or None.
      settings: None means the defaults.

    Returns:
      One `Check` for each rule of `checks.RULES`; `passed` is False if the robust accuracy may be too high.

    Raises:
      ValueError: as in `collect_diagnostics`.
    """
    images, labels = as_arrays(x, y, input_range_of(model))
    model = image_model(model)
    images = fitted(model, images)
    return run_checks(collect_diagnostics(model, to_float(images), labels, eps, surrogate=surrogate, settings=settings))


def collect_diagnostics(
    model: Any,
    x: Any,
    y: Any,
    eps: float,
    *,
    surrogate: Any = None,
    settings: DiagnosticSettings | None = None,
    execution: Execution | None = None,
) -> dict:
    """Attacks a few images in all the ways that tell robustness from masked gradients.

    An image that resists all attacks takes steps · (factor · (targets + 4) + 1) + 2 gradients and about as many
    forward passes as `queries`; one that becomes adversarial early takes far fewer.

    The attacks use the L-infinity norm. PGD uses the cross-entropy with steps of 2.5 · eps / steps, with which the
    boundary of the ball is within reach (Madry et al. 2017, https://arxiv.org/abs/1706.06083, their L2 attack):

        fgsm           one step
        pgd            `steps` steps
        pgd-steps      `factor` times the steps, each correspondingly smaller
        pgd-restarts   `factor` restarts, of the images on which pgd fails
        pgd-large      pgd-steps with eps 0.5
        grey           no attack but an image whose pixels are all 0.5: within eps 0.5 of any image
        apgd-ce        Auto-PGD of `factor` · `steps` steps on the cross-entropy
        apgd-t         the same on the targeted DLR loss, which is invariant to scaled logits, for `targets` classes, of
                       the images on which apgd-ce fails
        square         Square Attack, which uses no gradient, of the images on which all attacks with gradients fail;
                       not of a model that returns labels
        transfer       pgd-steps on the surrogate, where there is one, of the same images

    Args:
      model: a Keras model from float32 images (N, H, W, C) in [0, 1] to logits (N, K); run with `training=False`.
      x: float32 (N, H, W, C) in [0, 1]; 128 to 256 images are enough, with 16 a single image decides.
      y: int (N,), the true classes.
      eps: a number > 0 in units of a [0, 1] pixel: the size of perturbation whose robust accuracy is in question.
      surrogate: another such model, trained without the defense, or None.
      settings: None means the defaults.
      execution: on which devices, and where the state is saved; None means the default device.

    Returns:
      dict of JSON values. A value for each image is a str of N characters "0" and "1":
        "n", "eps", "settings": as given.
        "probability_rows": int, outputs that are all in [0, 1] and sum to 1; of an expectation, those of its model.
        "change": float, the largest difference between the outputs of two forward passes, relative to their L2 norm.
        "passes": int, how many passes of a random model an output is the mean of.
        "random_layers": list of str, the names of the layers that cause it, as far as they are found.
        "clean": {"accuracy": float in [0, 1], "right": str}.
        "refused": None, or str, why the attacks refuse the model; the following are then empty.
        "zero_gradient": str, 1 where the gradient of the cross-entropy at the image is 0 (or NaN) in every pixel.
        "attacks": dict of name → {"eps": float,
          "right": str, whether the model is right on the adversarial image, even if it is wrong on the image itself;
            "0" for the images that an attack did not get, because an earlier one had changed them,
          "accuracy": float in [0, 1], the robust accuracy, for which it has to be right on both,
          "seconds": float, compilation included, "gradients": int, "forwards": int}.

    Raises:
      ValueError: an argument of the wrong type, shape or range, an output for x that is NaN or infinite, or a
        surrogate whose last layer is a softmax.
    """
    settings = settings or DiagnosticSettings()
    sizes = gradient.sizes_of(eps)
    if len(sizes) != 1 or not sizes[0] > 0:
        raise ValueError(f"eps must be one number above 0, got {eps}.")
    eps = sizes[0]
    x, y, _ = gradient.check_inputs(model, x, y, eps, (0.0, 1.0), logits=False)  # attacks may refuse its softmax
    if not len(y):
        raise ValueError("there must be at least one image.")
    diagnostics: dict[str, Any] = {"n": len(y), "eps": float(eps), "settings": dataclasses.asdict(settings)}
    diagnostics |= _diagnose_outputs(model, x, y.numpy(), settings.batch_size)
    try:
        gradient.check_inputs(model, x, y, eps, (0.0, 1.0))
    except ValueError as error:
        if diagnostics["probability_rows"] < len(y):
            raise
        return diagnostics | {"refused": str(error), "zero_gradient": "", "attacks": {}}
    directions = _batched(lambda *batch: direction(model, *batch).numpy(), settings.batch_size, x, y)
    diagnostics |= {"refused": None, "zero_gradient": _flags(~directions.any(axis=(1, 2, 3)))}
    outcomes: dict[str, dict] = {}
    for name, attack, size, after in _diagnostic_attacks(surrogate, tuple(x.shape), float(eps), settings):
        if returns_labels(model) and getattr(attack, "needs_scores", False):
            continue
        left = np.ones(len(y), bool)
        for earlier in after:
            left &= checks.flags(outcomes[earlier]["right"])
        outcomes[name] = _outcome(model, x, y, left, attack, size, settings, execution)
    return diagnostics | {"attacks": outcomes}


def _diagnose_outputs(model: Any, x: tf.Tensor, labels: np.ndarray, batch_size: int) -> dict:
    """What the outputs for the clean images tell."""
    runs = [_batched(lambda batch: gradient.compiled_logits(model, batch).numpy(), batch_size, x) for _ in range(_RUNS)]
    if not np.isfinite(runs).all():
        raise ValueError("the model's outputs for x must be finite, got NaN or infinity.")
    first = runs[0]
    right = np.argmax(first, axis=1) == labels
    change = max(_relative_change(first, run) for run in runs[1:])
    if isinstance(model, Expectation):  # which takes the softmax of the outputs of its model
        first = _batched(lambda batch: gradient.compiled_logits(model.model, batch).numpy(), batch_size, x)
    rows = ((first >= 0) & (first <= 1)).all(axis=1) & (np.abs(first.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    return {
        "probability_rows": int(rows.sum()),
        "change": change,
        "passes": passes_of(model),
        "random_layers": random_layers(model) if change > TOLERATED_CHANGE and isinstance(model, keras.Model) else [],
        "clean": {"accuracy": float(right.mean()), "right": _flags(right)},
    }


class _Transfer:
    """An attack on the surrogate, whose images the model then classifies; its cost counts."""

    name = "transfer"

    def __init__(self, attack, surrogate):
        self._attack, self._surrogate = attack, surrogate

    def settings(self):
        return self._attack.settings()

    def __call__(self, model, *arguments, **options):
        return self._attack(self._surrogate, *arguments, **options)


def _diagnostic_attacks(surrogate, shape, eps, settings):
    """Yields (name, attack, eps, the attacks before it that have to fail on an image)."""

    def pgd(size, steps, restarts=1, early_stop=True):
        return PGD(steps=steps, step_size=2.5 * size / steps, restarts=restarts, early_stop=early_stop)

    long, large = settings.factor * settings.steps, 0.5
    yield "fgsm", FGSM(), eps, ()
    yield "pgd", pgd(eps, settings.steps), eps, ()
    yield "pgd-steps", pgd(eps, long), eps, ()
    yield "pgd-restarts", pgd(eps, settings.steps, restarts=settings.factor), eps, ("pgd",)
    yield "pgd-large", pgd(large, long), large, ()
    yield "grey", FixedImages(tf.fill((1, *shape), 0.5)), large, ()
    yield "apgd-ce", APGD(loss="ce", steps=long), eps, ()
    yield "apgd-t", APGD(loss="dlr-t", steps=long, targets=settings.targets), eps, ("apgd-ce",)
    yield "square", Square(steps=settings.queries), eps, checks.WHITE_BOX
    if surrogate is not None:
        # Continuing after the surrogate's decision boundary is crossed transfers better.
        yield "transfer", _Transfer(pgd(eps, long, early_stop=False), surrogate), eps, checks.WHITE_BOX


def _outcome(model, x, y, left, attack, eps, settings, execution):
    """The entry of one attack in the diagnostics; it gets the images that are `left`, bool (N,)."""
    right, robust, cost = np.zeros(len(y), bool), np.zeros(len(y), bool), CostSummary()
    if left.any():
        common = dict(batch_size=settings.batch_size, seed=settings.seed, execution=execution or Execution())
        result = evaluate(model, x[left], y[left].numpy(), attack, eps, **common)
        right[left], robust[left], cost = result.adversarial_correct[0], result.robust[0], result.cost
    return {
        "eps": eps,
        "right": _flags(right),
        "accuracy": float(robust.mean()),
        "seconds": cost.seconds,
        "gradients": cost.gradients,
        "forwards": cost.forwards,
    }


def _batched(function, batch_size, *arrays):
    starts = range(0, len(arrays[0]), batch_size)
    return np.concatenate([function(*(a[i : i + batch_size] for a in arrays)) for i in starts])


def _relative_change(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest ||a - b|| / ||a|| of a row."""
    return float(np.max(np.linalg.norm(a - b, axis=1) / (np.linalg.norm(a, axis=1) + 1e-10)))


def _flags(values: np.ndarray) -> str:
    return "".join("1" if value else "0" for value in values)
