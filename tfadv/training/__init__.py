"""Training: `Trainer`, `Checkpoints` to go on from, and `Diverged`."""

from tfadv.training.checkpoints import Checkpoints
from tfadv.training.guard import Diverged
from tfadv.training.loop import Trainer

__all__ = ["Checkpoints", "Diverged", "Trainer"]
