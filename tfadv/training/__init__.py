"""Training: `Trainer`, `Checkpoints` to go on from, and `Diverged`."""

from tfadv.training.checkpoints import Checkpoints
from tfadv.training.divergence import Diverged
from tfadv.training.trainer import Trainer

__all__ = ["Checkpoints", "Diverged", "Trainer"]
