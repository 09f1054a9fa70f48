"""Accuracy, clean and under attack: `evaluate`."""

from tfadv.evaluation.accuracy import evaluate

__all__ = ["evaluate"]
