"""Attacks on any Keras classifier that returns logits; one file an attack."""

from tfadv.attacks.fgsm import fgsm

__all__ = ["fgsm"]
