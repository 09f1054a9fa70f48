"""Explanations: what a model looks at, how its loss changes around an image, and why a data set is vulnerable."""

from tfadv.explanation.explain import Explanation, explain
from tfadv.explanation.loss_surface import loss_surface
from tfadv.explanation.saliency import grad_cam, saliency
from tfadv.explanation.vulnerability import Vulnerability, vulnerability

__all__ = ["Explanation", "Vulnerability", "explain", "grad_cam", "loss_surface", "saliency", "vulnerability"]
