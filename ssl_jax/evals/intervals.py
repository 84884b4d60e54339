"""Confidence intervals of a mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class MeanInterval(NamedTuple):
    """A mean and the ends of its interval, NaN for a single value."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool | None:
        """True if 0 lies outside; None if there is no interval."""
        if np.isnan(self.low) or np.isnan(self.high):
            return None
        return not self.low <= 0 <= self.high


def student(values: Sequence[float], confidence: float = 0.95) -> MeanInterval:
    """Return the mean of one or more independent values with Student's interval."""
    from scipy.stats import t  # takes a second to import

    mean = float(np.mean(values))
    if len(values) < 2:
        return MeanInterval(mean, float("nan"), float("nan"))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return MeanInterval(mean, mean - half, mean + half)
