"""A share of a data set, for studies of how much data a method needs."""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources.base import Source
from ssl_jax.data.subset import Subset


def fraction(source: Source, share: float) -> Source:
    """A random share of the examples, whatever their classes, the same every time; a smaller share
    is a part of a larger one.

    Raises:
      UserError: a share that is not in (0, 1], or that holds no example.
    """
    if share == 1:
        return source
    count = round(share * len(source))
    if not 0 < share < 1 or count < 1:
        raise UserError(
            f"data.fraction: {share} of the {len(source)} examples of {source.name}: expected a "
            "share in (0, 1] that holds at least one"
        )
    rows = np.random.default_rng(0).permutation(len(source))[:count]
    return Subset(source, np.sort(rows), f"{source.name}, {share:g} of it")
