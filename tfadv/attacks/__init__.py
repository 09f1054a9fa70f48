"""Attacks on any Keras classifier that returns logits; one file an attack."""

from tfadv.attacks.fgsm import fgsm
from tfadv.attacks.pgd import pgd

__all__ = ["fgsm", "pgd"]
