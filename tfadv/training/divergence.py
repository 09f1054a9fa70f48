"""Stops a training run that has diverged, instead of continuing with ruined weights."""

from __future__ import annotations

import math

from tfadv.errors import UserError

CHECK_EVERY = 20  # steps between two checks: each check waits for the step to end
# Multiple of the loss of guessing.  Noise at the start of a run reaches a few times that loss; a run beyond this does
# not recover.
EXPLODED = 100


class Diverged(UserError):
    """The loss is not finite or has exploded.

    Attributes:
      problem: what happened, and in which steps.
    """

    def __init__(self, problem: str) -> None:
        """Takes the problem."""
        super().__init__(f"{problem}: give a smaller learning_rate.")
        self.problem = problem


class DivergenceCheck:
    """Checks the running sum of the losses from time to time."""

    def __init__(self, classes: int, step: int = 0, loss: float = 0.0, images: float = 0.0) -> None:
        """Starts at a step.

        Args:
          classes: the number of logits.
          step: steps completed by the run that is resumed.
          loss: sum of the losses of its present epoch so far.
          images: the number of images in that sum.
        """
        self._limit = EXPLODED * math.log(max(2, classes))
        self._checked_step, self._loss, self._images = step, loss, images

    def new_epoch(self) -> None:
        """The sums start again at 0."""
        self._loss = self._images = 0.0

    def check(self, step: int, loss: float, images: float, weights_finite: bool = True) -> None:
        """Checks the steps since the last check.

        Args:
          step: steps completed in all.
          loss: sum of the losses of the epoch so far.
          images: the number of images in that sum.
          weights_finite: whether all weights are finite; a ReLU turns NaN into 0, and the loss then looks normal.

        Raises:
          Diverged: names the steps and the way out.
        """
        problem = None
        mean = (loss - self._loss) / max(1.0, images - self._images)
        if not math.isfinite(mean):
            problem = "the training loss is no longer finite"
        elif not weights_finite:
            problem = "the weights are no longer finite"
        elif mean > self._limit:
            problem = f"the training loss is {mean:.3g}, too large to recover from"
        if problem:
            first = self._checked_step + 1
            raise Diverged(f"{problem}, since a step from {first} to {step}")
        self._checked_step, self._loss, self._images = step, loss, images
