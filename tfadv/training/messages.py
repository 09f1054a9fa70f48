"""What training says on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from tfadv.runtime.console import duration

AFFECTS_RESULTS = False
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
