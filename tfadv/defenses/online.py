"""Defenses that attack the images of each step, and the attack inside a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tfadv.attacks import losses
from tfadv.attacks.gradient import logits_and_gradient, logits_of
from tfadv.attacks.norms import DENSE, NORMS, Linf, choose
from tfadv.defenses.base import Defense
from tfadv.defenses.losses import smoothed_cross_entropy
from tfadv.errors import check_name
from tfadv.specs import setting

VALIDATION_STEPS = 10  # of PGD, to choose the epoch to keep
# How eps changes while a model trains.  "ramp" is `tfadv.training.schedule.delayed_ramp`, "fixed" is the same in all
# steps, and "uniform" is drawn for each image, up to the largest.
EPS_SCHEDULES = ("ramp", "fixed", "uniform")
_EPS_STREAM, _NORM_STREAM, _SHARE_STREAM = 1, -1, -2  # of the step's seed, from which defenses draw as it is
_EXAMPLE = "pgd(norm=linf+l1, eps=8/255+12)"


def ascend(
    model: Any,
    x: tf.Tensor,
    y: tf.Tensor,
    start: tf.Tensor,
    eps: tf.Tensor,
    *,
    steps: int,
    loss: Callable[..., tf.Tensor] = losses.cross_entropy,
    norm: Any = Linf,
) -> tf.Tensor:
    """Steps of 2.5 · eps / steps in the direction of steepest ascent, each projected to within eps and [0, 1].

    Plain TensorFlow, for use inside a training step.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1], the centre.
      y: int64 (N,).
      start: float32 (N, H, W, C), within eps of x.
      eps: float32 () or (N, 1, 1, 1).
      steps: number of steps, >= 1.
      loss: function of (logits, y, target) that is maximized.
      norm: of eps, one of `tfadv.attacks.norms.NORMS`, or `NormOfEachImage`.

    Returns:
      float32 (N, H, W, C).
    """
    step_size = eps if steps == 1 else 2.5 * eps / steps

    def step(i, at):
        _, gradient = logits_and_gradient(model, at, y, loss=loss)
        return i + 1, norm.ascend(at, gradient, step_size, x, eps, 0.0, 1.0)

    _, adversarial = tf.while_loop(lambda i, _: i < steps, step, (0, start))
    return tf.ensure_shape(adversarial, x.shape)


def random_start(x: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor, norm: Any = Linf) -> tf.Tensor:
    """Uniform within eps of x (N, H, W, C), clipped to [0, 1]; eps float32 () or (N, 1, 1, 1), seed int64 (2,)."""
    return tf.clip_by_value(x + eps * norm.draw(x, seed), 0.0, 1.0)


def sizes_of_images(eps: tf.Tensor, n: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A size for each of n images, uniform from 0 to eps, float32 (N, 1, 1, 1); seed int64 (2,)."""
    stream = tf.random.experimental.stateless_fold_in(seed, _EPS_STREAM)
    return eps * tf.random.stateless_uniform((n, 1, 1, 1), stream)


def robust(model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, norm: Any = Linf) -> tf.Tensor:
    """bool (N,): images classified correctly, also under the PGD that chooses the epoch to keep.

    Clean accuracy would keep the very epoch in which one-step training collapsed.  Arguments as in `ascend`.
    """
    adversarial = ascend(model, x, y, x, eps, steps=VALIDATION_STEPS, norm=norm)
    clean, attacked = (tf.argmax(logits_of(model, images), axis=1) == y for images in (x, adversarial))
    return clean & attacked


@dataclasses.dataclass(frozen=True)
class NormOfEachImage:
    """Several norms, of which each image of a batch has one; the methods are those of a norm.

    Attributes:
      norms: of `tfadv.attacks.norms.NORMS`.
      own: int32 (N, 1, 1, 1), which of them.
    """

    norms: Sequence[Any]
    own: tf.Tensor

    def ascend(self, *arguments: Any) -> tf.Tensor:
        """See `Linf.ascend`; the step sizes and eps are (N, 1, 1, 1), each in the norm of the image."""
        return self._of_each([norm.ascend(*arguments) for norm in self.norms])

    def project(self, *arguments: Any) -> tf.Tensor:
        """See `Linf.project`."""
        return self._of_each([norm.project(*arguments) for norm in self.norms])

    def draw(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """See `Linf.draw`."""
        return self._of_each([norm.draw(x, seed) for norm in self.norms])

    def _of_each(self, images: list[tf.Tensor]) -> tf.Tensor:
        chosen = images[0]
        for k, others in enumerate(images):
            chosen = choose(self.own[:, 0, 0, 0] == k, others, chosen)
        return chosen


@dataclasses.dataclass(frozen=True)
class OnlineDefense(Defense):
    """A defense that attacks the images of each step; the epoch to keep is that of the highest accuracy under PGD.

    Attributes:
      norm: of the perturbation: linf or l2; for defenses with several attack steps also l1, or several joined by +.
      eps: the perturbation size to train against, in units of a [0, 1] pixel; None means that of the run, under which
        validation images are attacked in any case.  With another norm than linf, it is that of validation, too.  With
        several norms, one size for each, in their order, joined by +.
      eps_schedule: "ramp": 0 for a tenth of the steps, then growing over the next four tenths.  "fixed": the same in
        all steps.  "uniform": drawn for each image, from 0 to the largest.
    """

    attacks: ClassVar[bool] = True
    several_steps: ClassVar[bool] = False  # whether its attack has any number of steps, in any norms: `norm_and_sizes`

    weight_decay: float | None = setting(5e-3, least=0)
    norm: str = setting("linf")
    eps: float | tuple[float, ...] | None = setting(None, least=0)
    eps_schedule: str = setting("ramp", choices=EPS_SCHEDULES)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", self.norm.lower())
        for norm in self.norms:
            check_name("norm", norm, NORMS)
        if len(set(self.norms)) < len(self.norms):
            raise ValueError(f"norm={self.norm} names a norm twice.")
        if not self.several_steps and not {self.norm} <= set(DENSE):
            raise ValueError(
                f"norm={self.norm} needs several attack steps: take pgd, or {' or '.join(f'norm={n}' for n in DENSE)}."
            )
        if self.sizes and len(self.sizes) != len(self.norms):
            raise ValueError(f"eps must have one size for each of norm={self.norm}, such as {_EXAMPLE}.")
        if len(self.sizes) > 1 and not min(self.sizes) > 0:
            raise ValueError(f"with several norms, each eps must be above 0, got {self.sizes}.")
        if dict(zip(self.norms, self.sizes)).get("linf", 0) > 1:
            raise ValueError(f"eps must be at most 1 with norm=linf, for pixels in [0, 1], got {self.eps}.")

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of its norms."""
        return tuple(self.norm.split("+"))

    @property
    def sizes(self) -> tuple[float, ...]:
        """eps in each of its norms; empty where it is that of the run."""
        return () if self.eps is None else self.eps if isinstance(self.eps, tuple) else (self.eps,)

    @property
    def validation_cost(self) -> int:
        """See `Defense.validation_cost`."""
        return VALIDATION_STEPS * len(self.norms)

    def norm_and_sizes(self, x: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """What limits the perturbations of a step; of several norms, each image draws one from the step's seed.

        E-AT (Croce & Hein 2022, https://arxiv.org/abs/2105.12508) draws one norm for a whole batch, and draws those
        more often in which the running robust accuracy is low.  Here all norms are equally likely: a step is a function
        of the weights, the batch and the seed, so that a resumed training equals an unbroken one.  A norm for each
        image keeps all of them in each update and in each of BatchNorm's statistics.

        Args:
          x: float32 (N, H, W, C).
          eps: size in the first norm, float32 () or (N, 1, 1, 1); those in the others are in proportion to `self.eps`.
          seed: int64 (2,).

        Returns:
          A norm (`tfadv.attacks.norms.NORMS`) or `NormOfEachImage`, and the sizes, float32 () or (N, 1, 1, 1).

        Raises:
          ValueError: there are several norms and no sizes.
        """
        norms = [NORMS[norm] for norm in self.norms]
        if len(norms) == 1:
            return norms[0], eps
        stream = tf.random.experimental.stateless_fold_in(seed, _NORM_STREAM)
        own = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), stream, 0, len(norms), tf.int32)
        return NormOfEachImage(norms, own), eps * tf.gather(tf.constant(self._proportions(), tf.float32), own)

    def robust(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """See `Defense.robust`: images that are correct clean and under PGD in each of the norms."""
        sizes = [eps] if len(self.norms) == 1 else [eps * proportion for proportion in self._proportions()]
        withstood = [robust(model, x, y, size, NORMS[norm]) for norm, size in zip(self.norms, sizes, strict=True)]
        return tf.reduce_all(withstood, axis=0)

    def _proportions(self) -> list[float]:
        """The sizes of several norms, in units of that of the first."""
        if not self.sizes:
            raise ValueError(f"{self.label} needs eps, one size for each norm, such as {_EXAMPLE}.")
        return [size / self.sizes[0] for size in self.sizes]


@dataclasses.dataclass(frozen=True)
class AdversarialTraining(OnlineDefense):
    """Cross-entropy of adversarial images in place of some of the clean ones.

    Attributes:
      share: the share of each batch that is attacked, drawn anew in each step; the rest stays clean.  Both go through
        the network in one call, so that BatchNorm's statistics are those of the mixture.
      smoothing: of the labels, see `smoothed_cross_entropy`.
    """

    share: float = setting(1.0, above=0, most=1)
    smoothing: float = setting(0.0, least=0, most=0.999)

    @property
    def attack_steps(self) -> int:
        """Gradients per attacked image."""
        return 1

    @property
    def cost(self) -> float:
        """See `Defense.cost`."""
        return 1 + self.share * self.attack_steps

    def attack(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Adversarial images of x, float32 (N, H, W, C); arguments as in `perturb`."""
        raise NotImplementedError

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The batch, in which the images that the seed draws are adversarial, float32 (N, H, W, C)."""
        if self.share == 1:
            return self.attack(model, x, y, eps, seed)
        # Not the first ones: a data set may sort each batch by class.
        stream = tf.random.experimental.stateless_fold_in(seed, _SHARE_STREAM)
        if x.shape[0] is None:  # the batches of a data set may differ
            n = tf.maximum(1, tf.cast(tf.round(self.share * tf.cast(tf.shape(x)[0], tf.float64)), tf.int32))
        else:
            n = max(1, round(self.share * x.shape[0]))
        # XLA has no stateless_shuffle.
        rows = tf.argsort(tf.random.stateless_uniform((x.shape[0] or tf.shape(x)[0],), stream))[:n]
        own, labels, sizes = tf.gather(x, rows), tf.gather(y, rows), tf.gather(eps, rows) if eps.shape.rank else eps
        return tf.tensor_scatter_nd_update(x, rows[:, None], self.attack(model, own, labels, sizes, seed))

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The cross-entropy of the adversarial images and of the clean rest."""
        assert adversarial is not None
        logits = model(adversarial, training=True)
        return smoothed_cross_entropy(logits, y, self.smoothing), logits
