"""What training says on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfadv.evaluation.guessing import hardly_better_than_guessing, largest_share
from tfadv.runtime.console import duration

LOG = logging.getLogger(__name__)
_MUCH = 0.05  # clean accuracy that is lost
_KEEP_MORE = " Attacking a share of each batch, as nfgsm(share=0.5) does, or a smaller eps keeps more clean accuracy."
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


def say_outcome(name: str, record: Mapping[str, Any], labels: np.ndarray, learning_rate: str) -> None:
    """Says what training has brought, and warns where it has brought nothing or has cost much.

    Args:
      name: of the run.
      record: what `Trainer.fit` returned.
      labels: int (N,), the classes of the validation images.
      learning_rate: the setting that the user may change, with its value.
    """
    start, epoch = record.get("start"), record["best_epoch"]
    robust_before = (start or {}).get("val_robust_accuracy")
    if start and not epoch:
        measured = "" if robust_before is None else f"{robust_before:.1%} robust, "
        LOG.warning(
            "%s: no epoch was better than the model was before (%s%.1f%% on validation images as they are), so its "
            "weights are unchanged: try a smaller or larger %s, more epochs, or a smaller eps.",
            *(name, measured, 100 * start["val_accuracy"], learning_rate),
        )
        return
    accuracy, share = record["history"]["val_accuracy"][epoch - 1], largest_share(np.bincount(labels).tolist())
    if hardly_better_than_guessing(accuracy, share):
        LOG.warning(
            "%s has not learned: it classifies %.1f%% of the validation images correctly; always answering the largest "
            "class, %.1f%%. Try more epochs or another %s; instead of mixed_bfloat16, float32.",
            *(name, 100 * accuracy, 100 * share, learning_rate),
        )
    if start and robust_before is not None:
        robust = record["history"]["val_robust_accuracy"][epoch - 1]
        lost = start["val_accuracy"] - accuracy
        LOG.log(
            logging.WARNING if lost > _MUCH else logging.INFO,
            "%s: epoch %d is kept. On validation images: clean %.1f%% (before: %.1f%%), robust %.1f%% (%.1f%%).%s",
            *(name, epoch, 100 * accuracy, 100 * start["val_accuracy"]),
            *(100 * robust, 100 * robust_before),
            _KEEP_MORE if lost > _MUCH else "",
        )
