"""Training: `Trainer`, its `TrainingSettings`, `Checkpoints` to resume from, and the error `Diverged`."""

from tfadv.training.checkpoints import Checkpoints
from tfadv.training.divergence import Diverged
from tfadv.training.trainer import Trainer, TrainingSettings

__all__ = ["Checkpoints", "Diverged", "Trainer", "TrainingSettings"]
