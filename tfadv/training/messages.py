"""What training says on the terminal."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfadv import specs
from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.objectives import OBJECTIVES
from tfadv.objectives.base import Objective
from tfadv.runtime.console import duration

AFFECTS_RESULTS = False
LOG = logging.getLogger(__name__)
_PERCENTAGES = {"accuracy": "training", "val_accuracy": "validation", "val_robust_accuracy": "robust"}


def epoch_line(
    name: str, epoch: int, epochs: int, metrics: Mapping[str, float], rate: float, seconds_left: float
) -> str:
    """Returns the line about an epoch that is over; the lines of one run are aligned.

    Args:
      name: of the run.
      epoch: its number, from 1.
      epochs: number of epochs.
      metrics: its metrics, as Keras names them; accuracies are in [0, 1].
      rate: training images per second.
      seconds_left: until the last epoch is over.
    """
    width = len(str(epochs))
    shown = [f"{title} {100 * metrics[key]:5.1f}%" for key, title in _PERCENTAGES.items() if key in metrics]
    left = f"  {duration(seconds_left)} left" if epoch < epochs else ""
    return (
        f"{name}  epoch {epoch:{width}}/{epochs}  loss {metrics['loss']:7.4f}  accuracy: {', '.join(shown)}  "
        f"{rate:,.0f} images/s{left}"
    )


def warn_of_guessing(name: str, record: Mapping[str, Any], labels: np.ndarray) -> None:
    """Warns of a network that has not learned.

    Args:
      name: of the run.
      record: what `Trainer.fit` returned.
      labels: int (N,), the classes of the validation images.
    """
    accuracy = record["history"]["val_accuracy"][record["best_epoch"] - 1]
    share = largest_share(np.bincount(labels).tolist())
    if hardly_better_than_guessing(accuracy, share):
        LOG.warning(
            "%s has not learned: it classifies %.1f%% of the validation images correctly; always answering the largest "
            "class, %.1f%%. Give more epochs or another learning rate; instead of mixed_bfloat16, try float32.",
            *(name, 100 * accuracy, 100 * share),
        )


def objective_label(objective: Objective) -> str:
    """The objective as `--defenses` takes it, with the settings that are not its defaults: "pgd(steps=2)"."""
    kind = type(objective)
    name = next((name for name in OBJECTIVES if OBJECTIVES[name] is kind), kind.__name__)
    fields = dataclasses.fields(objective)
    changed = {f.name: getattr(objective, f.name) for f in fields if getattr(objective, f.name) != f.default}
    return specs.label(name, changed)
