"""What every defense has: the settings of its training, and its loss."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import tensorflow as tf

from tfadv.defenses.losses import smoothed_cross_entropy
from tfadv.specs import Spec, setting

OPTIMIZERS = ("adam", "sgd")
# The values of "auto" and 0 where a defense attacks in each step, or the model is the user's own: measured on eight
# architectures, see docs/defenses.md.
ADAM_RATE = 1e-3
FINE_TUNING_RATE = 0.01  # of SGD, for weights that were trained before


@dataclasses.dataclass(frozen=True)
class Defense(Spec):
    """How the weights of a model come to be: what training starts from, sees and minimizes.

    The fields are the settings.  A new defense is a subclass and an entry in `tfadv.defenses.DEFENSES`.

    Attributes:
      epochs: passes over the training images; 0 takes the number of the run.
      learning_rate: the peak, reached after warm-up; 0 takes 0.001 with Adam, and the rate of the run with SGD.
      optimizer: "adam", "sgd" with Nesterov momentum 0.9, or "auto": Adam for a defense that attacks in each step and
        for the user's own models, else SGD.
      weight_decay: decoupled, of convolution and dense kernels; None takes that of the run.  The coupled 5e-4 of
        published work, with momentum 0.9, corresponds to about 5e-3.
      average: decay per step of a moving average of the weights, such as 0.997, which is validated and kept in place of
        the weights; 0 keeps the weights.
      models: the models of a run that it trains; None means all of them.
    """

    full_name: ClassVar[str] = ""  # in plots; "" takes the name
    start: ClassVar[str | None] = "first"  # "first": the run's first defense; None: initial weights
    stage: ClassVar[str] = "retrain"  # the stage that trains it
    # "clean": each image once per epoch.  "stored": also its stored adversarial images, one per eps.  "repeated": clean
    # images, as often as "stored" shows each, so that both take equally many steps.
    images: ClassVar[Literal["clean", "repeated", "stored"]] = "clean"
    attacks: ClassVar[bool] = False  # whether it attacks the images of each step, or otherwise changes them
    in_each_step: ClassVar[str] = "attacked in each step"  # in legends, where it does
    augment: ClassVar[bool] = True
    balance: ClassVar[bool] = False  # whether larger classes are undersampled to the size of the smallest one
    uses_budget: ClassVar[bool] = True  # whether --budget decides how long it trains
    color: ClassVar[str] = ""  # in plots; "" takes the next one
    marker: ClassVar[str] = ""

    epochs: int = setting(0, least=0)
    learning_rate: float = setting(0.0, least=0)
    optimizer: str = setting("auto", choices=("auto", *OPTIMIZERS))
    weight_decay: float | None = setting(None, least=0)
    average: float = setting(0.0, least=0, most=0.9999)
    models: tuple[str, ...] | None = None

    @property
    def cost(self) -> float:
        """Forward and backward passes per image of a batch: one for the update, and those of the attack."""
        return 1.0

    @property
    def validation_cost(self) -> int:
        """Passes per validation image of `robust`."""
        return 0

    def perturb(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor | None:
        """Computes the adversarial images of a step; their gradients do not reach the weights.

        Args:
          model: callable from float32 (N, H, W, C) to logits (N, K); called with `training=False`.
          x: float32 (N, H, W, C) in [0, 1].
          y: int64 (N,).
          eps: float32 () or, one per image, (N, 1, 1, 1); in units of a [0, 1] pixel.
          seed: int64 (2,), different for each batch.

        Returns:
          float32 (N, H, W, C) in [0, 1]; None where the defense does not attack.
        """
        return None

    def loss(
        self, model: Any, x: tf.Tensor, y: tf.Tensor, adversarial: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of each image, and the logits that count for the training accuracy; calls the model once.

        Args:
          model: as in `perturb`; called with `training=True`.
          x: float32 (N, H, W, C) in [0, 1].
          y: int64 (N,).
          adversarial: what `perturb` returned.

        Returns:
          (losses float32 (N,), logits float32 (N, K)).
        """
        logits = model(x, training=True)
        return smoothed_cross_entropy(logits, y), logits

    def robust(self, model: Any, x: tf.Tensor, y: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """Which images count for the epoch to keep, where the defense attacks; arguments as in `perturb`.

        Returns:
          bool (N,).
        """
        raise NotImplementedError

    def fallback(self) -> Defense | None:
        """The defense to go on with where training with this one has collapsed; None where there is none."""
        return None

    def settings(self) -> dict[str, Any]:
        """Its settings as JSON values, without the models that it is for."""
        return {name: value for name, value in super().settings().items() if name != "models"}

    @property
    def title(self) -> str:
        """What plots call it: the full name with the settings that differ from the defaults."""
        return (self.full_name or self.name) + self.label.removeprefix(self.name)

    def step_only(self) -> Defense:
        """The same without the settings that its compiled step does not depend on: many defenses share one."""
        kind = type(self)
        if kind.loss is Defense.loss and kind.perturb is Defense.perturb:
            return Defense()
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Defense)}
        return dataclasses.replace(self, **defaults)

    @property
    def summary(self) -> str:
        """A line that describes it, for legends."""
        start = "trained from the initial weights" if self.start is None else "trained further"
        images = {
            "clean": "clean images",
            "repeated": "clean images, as many steps as with stored adversarial images",
            "stored": "clean images and stored adversarial images",
        }[self.images]
        parts = [f"{start} on {images}"] + [self.in_each_step] * self.attacks
        return "; ".join(parts + ["augmentation"] * self.augment + ["balanced classes"] * self.balance)
