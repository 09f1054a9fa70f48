"""Accuracy, clean and under attack: `hits`, and `count` of them."""

from tfadv.evaluation.accuracy import count, hits

__all__ = ["count", "hits"]
