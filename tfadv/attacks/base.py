"""What all attacks share: checks of settings and inputs, and batches.

An attack is a frozen dataclass whose fields are its settings.  A new one is a
subclass of `Attack`, which defines how one batch is attacked, or of
`tfadv.attacks.iterative.IterativeAttack`, which defines a start and a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfadv import specs
from tfadv.attacks import loop
from tfadv.attacks.cost import Cost
from tfadv.attacks.gradient import check_inputs, is_adversarial, largest_distance, sizes_of
from tfadv.attacks.norms import COUNTS
from tfadv.errors import UserError, check_whole_number
from tfadv.models.accelerate import accelerated, computes_in_bfloat16
from tfadv.models.compiled import returns_labels
from tfadv.models.expectation import Expectation, passes_of
from tfadv.models.image_model import fitted, image_model
from tfadv.models.twins import float32_twin
from tfadv.runtime import compilation


def precision_setting() -> Any:
    """The field `precision` of an attack whose search can run in bfloat16; given by name only.

    With "mixed_bfloat16", such an attack computes logits and gradients on `Call.search_model`.
    """
    metadata = {"choices": ("float32", "mixed_bfloat16")}
    return dataclasses.field(default="float32", metadata=metadata, kw_only=True)


class Images(NamedTuple):
    """A batch: x float32 (N, H, W, C), y int64 (N,), the images' numbers int64 (N,), and where they are needed, the
    logits of x, float32 (N, K), and the classes to approach, int64 (N,)."""

    x: tf.Tensor
    y: tf.Tensor
    numbers: tf.Tensor
    logits: tf.Tensor | None = None
    target: tf.Tensor | None = None

    def take(self, rows: np.ndarray) -> Images:
        """These rows, in this order."""
        return Images(*(None if tensor is None else tf.gather(tensor, rows) for tensor in self))


class Bounds(NamedTuple):
    """The limits of a round: eps and the least and greatest pixel value, float32 (); `targeted`, bool (); and the score
    at which an image needs no further round, float32 ()."""

    eps: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    targeted: tf.Tensor
    goal: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an attack: the model and the arguments that all batches share.

    Attributes:
      model: the model under attack, in float32.
      search_model: its bfloat16 clone if the attack's `precision` is mixed_bfloat16; otherwise the model itself.
      numbers: int64 (N,), the numbers of the images of a batch, from which their random numbers are drawn.
    """

    model: Any
    search_model: Any
    seed: int
    clip: tuple[float, float]
    cost: Cost
    resume: loop.Resume | None
    targeted: bool
    numbers: tf.Tensor

    def of_batch(self, rows: slice) -> Call:
        """The same call for some of its images."""
        return dataclasses.replace(self, numbers=self.numbers[rows])

    def bounds(self, eps: tf.Tensor, goal: float | tf.Tensor = loop.ADVERSARIAL) -> Bounds:
        """The bounds of a round at this eps."""
        low, high = (tf.constant(limit, tf.float32) for limit in self.clip)
        return Bounds(eps, low, high, tf.constant(self.targeted), tf.convert_to_tensor(goal, tf.float32))


def to_attack(call: Call, logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """bool (N,): images that are not adversarial from the start; all of a random model, which may answer otherwise."""
    return ~is_adversarial(logits, y, call.targeted) | isinstance(call.model, Expectation)


@dataclasses.dataclass(frozen=True)
class Attack(specs.Spec):
    """An attack and its settings.

    Raises:
      ValueError: a setting has the wrong type or is out of range.
      UserError: the name of a norm, loss or target rule is unknown; the message suggests the nearest one.
    """

    precision = "float32"  # where it can be set, it is a field: `precision_setting`
    has_eps = True  # whether changes have a size; others, such as a corruption, are called with eps None
    joint = False  # whether the result of an image depends on those that are attacked with it
    limited = True  # whether eps limits the search; one that looks for the nearest image may have any limit, or none
    revision = 0  # raised where the attack finds other images than in the last release
    uses_gradient = True  # whether it fails on images where the gradient of its loss is zero
    needs_scores = False  # whether it compares logits, which a model that returns labels does not have

    def __call__(
        self,
        model: Any,
        x: Any,
        y: Any,
        eps: float | Sequence[float] | None,
        *,
        seed: int = 0,
        image_numbers: Sequence[int] | None = None,
        clip: tuple[float, float] = (0.0, 1.0),
        batch_size: int = 256,
        cost: Cost | None = None,
        progress: Callable[[int], Any] | None = None,
        resume: loop.Resume | None = None,
    ) -> tf.Tensor:
        """Attacks images.

        Args:
          model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
            run with `training=False`, its variables stay as they are.
          x: float32 (N, H, W, C) in `clip`; also (N, H, W) or (N, D), where the model takes these.
          y: int (N,), the true classes, or the target classes where the attack is `targeted`.
          eps: the size of the perturbation in units of x: a number >= 0, a text such as "8/255", or a sequence of E of
            these.  None: as far as images can be, where the attack looks for the nearest image; none, where it has no
            eps.
          seed: int, for random starts and other random choices.
          image_numbers: int (N,), the numbers of the images: the random start of an image depends on the seed and its
            number, and not on the other images.  None means 0, 1, … N - 1.
          clip: (least, greatest) value of a pixel.
          batch_size: number of images that are attacked at once; it does not change which images become adversarial.
          cost: a `Cost` to which the cost is added, or None.
          progress: function that is called with the number of images completed since its last call, or None.
          resume: saves finished and partial rounds (`tfadv.store.resume.ResumeLog`), so that the same call
            continues after an interruption; or None.

        Returns:
          float32 in the shape of x; with a first axis of E where `eps` is a sequence.  No image is further from x than
          eps, or outside of `clip`.  An image on which the attack fails is x, if the attack has an eps.

        Raises:
          ValueError: an argument has the wrong type, shape or range, or the model's last layer is a softmax.
          UserError: the model has no bfloat16 clone, or returns labels and the attack needs scores.
        """
        if not tf.executing_eagerly():
            raise ValueError(
                "an attack can't be called inside a tf.function: use FGSM.one_pass there, or write your own step."
            )
        check_whole_number("batch_size", batch_size, 1)
        self.check_eps(eps)
        shape, model = np.shape(x), image_model(model)
        if isinstance(model, Expectation) and not self.takes_random:
            raise UserError(
                f"{self.label} can't attack a random model, because it does not check what it finds with new passes: "
                "take pgd, apgd-ce, apgd-dlr or autoattack(attacks=apgd-ce+apgd-dlr)."
            )
        if self.needs_scores and returns_labels(model):
            raise UserError(f"{self.label} needs scores, and the model returns labels: take hopskipjump or rays.")
        x = fitted(model, x)
        norm = getattr(self, "norm", "linf")
        # Searches end at the smallest eps: with 0, they go on to the nearest image.
        nearest = (0.0, largest_distance(clip, norm, np.shape(x)[1:])) if self.has_eps else (0.0,)
        sizes = nearest if eps is None else eps
        x, y, sizes = check_inputs(model, x, y, sizes, clip, norm, limited=self.limited)
        own = tf.range(len(y), dtype=tf.int64) if image_numbers is None else tf.cast(image_numbers, tf.int64)
        if own.shape != y.shape:
            raise ValueError(f"image_numbers must be one number per image, ({len(y)},); got shape {tuple(own.shape)}.")
        counted, targeted = Cost(), getattr(self, "targeted", False)
        call = Call(model, self._search_model(model), int(seed), clip, counted, resume, targeted, own)
        if len(y):
            adversarial = self.attack_images(call, x, y, sizes, int(batch_size), progress or (lambda n: None))
        else:
            adversarial = tf.zeros((len(sizes), *x.shape))
        if cost is not None:
            counted.gradients *= passes_of(model)
            counted.forwards *= passes_of(model)
            cost.add_all(counted)
        adversarial = tf.reshape(adversarial, (len(sizes), *shape))
        return adversarial[-1] if eps is None or np.ndim(eps) == 0 else adversarial

    @property
    def sets(self) -> tuple[Attack, ...]:
        """Where each makes a set of images on which accuracy is measured, whatever the clean image: these attacks."""
        return ()

    def settings_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What a result says of the attack on images of a shape (H, W, C): its settings, and what follows from them."""
        return self.settings()

    def check_eps(self, eps: Any) -> None:
        """Raises ValueError where eps is given and the attack has none, or it needs one, or it counts and eps can't."""
        if eps is not None and not self.has_eps:
            raise ValueError(f"{self.label} has no eps: its changes are not limited by one. Leave eps out.")
        unit = COUNTS.get(getattr(self, "norm", ""))
        if eps is None and self.has_eps and self.limited:
            what = f"a number of {unit} such as 24" if unit else "the size of the perturbation, such as 8 / 255"
            raise ValueError(f"{self.label} needs eps, {what}.")
        if unit and eps is not None and not all(size.is_integer() for size in sizes_of(eps)):
            raise ValueError(f"eps of {self.label} is a number of {unit}: a whole number such as 24, not {eps}.")

    @property
    def takes_random(self) -> bool:
        """Whether it attacks random models, see `tfadv.expectation`."""
        return True

    def attack_images(
        self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor, batch_size: int, progress: Callable[[int], Any]
    ) -> tf.Tensor:
        """float32 (E, N, H, W, C): the adversarial images for each of the `sizes` (E,); attacks batch after batch."""
        batches = []
        for start in range(0, len(y), batch_size):
            rows = slice(start, start + batch_size)
            batches.append(self.attack_batch(call.of_batch(rows), x[rows], y[rows], sizes))
            progress(len(y[rows]))
        return batches[0] if len(batches) == 1 else tf.concat(batches, axis=1)

    def attack_batch(self, call: Call, x: tf.Tensor, y: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """float32 (E, N, H, W, C): the adversarial images of one batch; adds to `call.cost`."""
        raise NotImplementedError

    def _search_model(self, model: Any) -> Any:
        """See `Call.search_model`."""
        if self.precision == "float32":
            return model
        if not compilation.use_accelerated():
            raise UserError(
                f"precision={self.precision} needs optimized clones, which compute in bfloat16: unset TFADV_ACCELERATE."
            )
        clone = accelerated(float32_twin(model) or model, self.precision)
        if not computes_in_bfloat16(clone):
            raise UserError(
                f"precision={self.precision}: no layer of {getattr(model, 'name', 'this model')} can be computed in "
                "bfloat16. This needs convolutions in a functional or sequential model that uses each layer once."
            )
        return clone
