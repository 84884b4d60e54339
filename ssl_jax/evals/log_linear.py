"""Growth of a metric with the logarithm of a size, as in scaling studies (1707.02968)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.intervals import MeanInterval, student


class LogLinear(NamedTuple):
    """metric = at_one + slope * log10(size).

    Attributes:
      at_one: the line's value at size 1.
      slope: gain per factor of ten.
      low, high: the slope's interval; NaN for a single group.
      groups: number of groups that were fitted.
    """

    at_one: float
    slope: float
    low: float
    high: float
    groups: int

    @property
    def interval(self) -> MeanInterval:
        """The slope with its interval."""
        return MeanInterval(self.slope, self.low, self.high)


def fit(
    sizes: Sequence[float],
    values: Sequence[float],
    groups: Sequence[object],
    confidence: float = 0.95,
) -> LogLinear:
    """Fit a line to the points of each group (a seed) by least squares, and average the lines.

    The interval is Student's over the groups' slopes: points of one seed share its randomness, and
    a line may be wrong, so residuals around one line would claim too much.

    Args:
      sizes, values, groups: one entry per point.
      confidence: probability of the interval.

    Raises:
      UserError: a size that is not positive, or a group with fewer than two sizes.
    """
    if not min(sizes, default=0) > 0:
        raise UserError("expected sizes above 0")
    x, y = np.log10(np.asarray(sizes, float)), np.asarray(values, float)
    lines = []
    for group in dict.fromkeys(groups):
        rows = [i for i, other in enumerate(groups) if other == group]
        if len(set(x[rows])) < 2:
            raise UserError(f"expected two or more sizes, got {len(set(x[rows]))}")
        lines.append(np.polyfit(x[rows], y[rows], 1))
    slopes, levels = zip(*lines, strict=True)
    return LogLinear(float(np.mean(levels)), *student(slopes, confidence), len(lines))
