"""Losses far above those before: often the first sign of a run that is about to diverge."""

import collections
import math
import statistics

WINDOW = 50  # losses that a new one is compared with
LEAST = 10  # number of losses before which none is called a spike
_NORMAL = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


class Spikes:
    """Compares each loss with the median of the last `WINDOW`, in deviations estimated from their
    median absolute deviation: a spike among them hardly moves either.

    Args:
      threshold: deviations above the median that make a spike; 0 finds none.
    """

    def __init__(self, threshold: float):
        self._threshold = threshold
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def height(self, loss: float) -> float | None:
        """Return how many deviations `loss` lies above the median if it is a spike, else None."""
        previous = list(self._losses)
        if not math.isfinite(loss):
            return None
        self._losses.append(loss)
        if not self._threshold or len(previous) < LEAST:
            return None
        middle = statistics.median(previous)
        spread = _NORMAL * statistics.median(abs(x - middle) for x in previous)
        # Losses that hardly vary, in a run that has converged, are no measure of a spike.
        spread = max(spread, 0.01 * abs(middle))
        height = (loss - middle) / spread if spread else 0.0
        return height if height > self._threshold else None
