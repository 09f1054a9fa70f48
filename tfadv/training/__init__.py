"""Training with Keras `fit`: `Trainer`."""

from tfadv.training.loop import Trainer

__all__ = ["Trainer"]
