"""Training: `Trainer`, its `TrainingSettings`, `Checkpoints`, `TrainingLog` for TensorBoard, the error `Diverged`."""

from tfadv.training.checkpoints import Checkpoints
from tfadv.training.divergence import Diverged
from tfadv.training.settings import TrainingSettings
from tfadv.training.tensorboard import TrainingLog
from tfadv.training.trainer import Trainer

__all__ = ["Checkpoints", "Diverged", "Trainer", "TrainingLog", "TrainingSettings"]
