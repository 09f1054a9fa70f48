"""A plugin: checks for gradient masking with few steps and queries, for tests that are not about them."""

import functools

from tfadv.pipeline import steps

steps.DiagnosticSettings = functools.partial(steps.DiagnosticSettings, steps=2, factor=2, targets=1, queries=5)
