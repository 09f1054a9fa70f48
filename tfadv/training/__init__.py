"""Training with Keras `fit`: `Trainer`, and `Checkpoints` to go on from."""

from tfadv.training.checkpoints import Checkpoints
from tfadv.training.loop import Trainer

__all__ = ["Checkpoints", "Trainer"]
