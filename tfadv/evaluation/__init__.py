"""Accuracy, clean and under attack: how it is counted, how strong the attack was, and whether to believe it."""

from tfadv.evaluation.checks import judge

__all__ = ["judge"]
