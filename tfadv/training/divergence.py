"""Stops a training run whose loss is lost, instead of training on with ruined weights."""

import math

from tfadv.errors import UserError

EVERY = 20  # steps between two looks: each look waits for the step to end
# Times the loss of guessing.  Noise at the start of a run reaches a few times that; what is beyond does not come back.
EXPLODED = 100


class Diverged(UserError):
    """The loss is not finite or has exploded; the message names the steps."""


class Guard:
    """Looks at the running sum of the losses from time to time."""

    def __init__(self, classes, step=0, loss=0.0, images=0.0):
        """`classes`: number of logits; then what a resumed run has behind it: steps, sum of losses, images."""
        self._most = EXPLODED * math.log(max(2, classes))
        self._good, self._loss, self._images = step, loss, images

    def new_epoch(self):
        """The sums begin again at 0."""
        self._loss = self._images = 0.0

    def look(self, step, loss, images, sound=True):
        """Checks the steps since the last look.

        Args:
          step: int, steps made in all.
          loss: float, sum of the losses of the epoch so far.
          images: float, their number.
          sound: bool, whether all weights are finite: a ReLU turns NaN into 0, and the loss then looks healthy.

        Raises:
          Diverged: names the steps and the way out.
        """
        what = None
        mean = (loss - self._loss) / max(1.0, images - self._images)
        if not math.isfinite(mean):
            what = "the training loss is no longer finite"
        elif not sound:
            what = "the weights are no longer finite"
        elif mean > self._most:
            what = f"the training loss is {mean:.3g}, beyond all that can come back"
        if what:
            raise Diverged(f"{what}, since a step from {self._good + 1} to {step}: give a smaller --learning_rate.")
        self._good, self._loss, self._images = step, loss, images
