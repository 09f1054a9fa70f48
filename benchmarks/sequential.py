"""How many images `evaluate(…, precision=…)` takes, and how often its interval misses the accuracy.

    python -m benchmarks.sequential

Simulates images that are classified correctly with a given probability; needs no model.
"""

from __future__ import annotations

import numpy as np

from tfadv.evaluation.sequential import BLOCK, anytime_interval

ACCURACIES, PRECISIONS, SEQUENCES, MOST = (0.02, 0.2, 0.5, 0.8, 0.99), (0.05, 0.02), 1000, 100 * BLOCK


def simulated(accuracy: float, precision: float) -> tuple[np.ndarray, np.ndarray]:
    """(images needed, int (SEQUENCES,); whether the last interval misses the accuracy, bool (SEQUENCES,))."""
    outcomes = np.random.default_rng(0).random((SEQUENCES, MOST)) < accuracy
    sums = np.cumsum(outcomes, axis=1, dtype=np.int32)[:, BLOCK - 1 :: BLOCK]
    needed, missed = np.full(SEQUENCES, MOST), np.zeros(SEQUENCES, bool)
    left = np.arange(SEQUENCES)
    for look, correct in enumerate(sums.T, 1):
        n = look * BLOCK
        low, high = anytime_interval(correct[left], n, precision)
        value = correct[left] / n
        stops = np.maximum(value - low, high - value) <= precision
        needed[left[stops]], missed[left[stops]] = n, ((low > accuracy) | (high < accuracy))[stops]
        left = left[~stops]
        if not len(left):
            break
    return needed, missed


def main() -> None:
    """Prints a table in Markdown."""
    print("| accuracy |" + "".join(f" ±{100 * p:g} points | missed |" for p in PRECISIONS))
    print("| --- |" + " --- | --- |" * len(PRECISIONS))
    for accuracy in ACCURACIES:
        cells = [simulated(accuracy, precision) for precision in PRECISIONS]
        texts = (f" {np.median(needed):,.0f} | {missed.mean():.1%} |" for needed, missed in cells)
        print(f"| {accuracy:.0%} |" + "".join(texts), flush=True)


if __name__ == "__main__":
    main()
