"""Collapse: whether a representation has lost what tells images apart, and in which way.

A network that has learned nothing yet looks alike in part: most images share a direction that is
far longer than what differs. So a number counts as a sign of collapse where it is low and also far
below that of the same network untrained.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

SIGNS = ("feature_std", "rankme", "cluster_entropy")  # numbers that tell of collapse
LOW_STD, NO_STD = 0.3, 0.03  # of `feature_std`, 1 for directions spread evenly
LOW_RANK, NO_RANK = 0.1, 2.0  # of RankMe: as a share of the dimensions, and as such
LOW_ENTROPY, NO_ENTROPY = 0.2, 0.05  # of `cluster_entropy`, 1 for clusters used alike
FALL = 0.3  # what is left of the untrained network's number


class Kind(enum.IntEnum):
    """The value of the metric `diag/collapse`."""

    NONE = 0
    CONSTANT = 1
    DIMENSIONAL = 2
    CLUSTER = 3


class Finding(NamedTuple):
    """A kind of collapse, the numbers that show it, and what to try."""

    kind: Kind
    shown: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return f"{SAYS[self.kind]} ({self.shown}); try {self.advice}" if self.kind else "none"


SAYS = {
    Kind.NONE: "none",
    Kind.CONSTANT: "constant collapse: all images get nearly the same features",
    Kind.DIMENSIONAL: "dimensional collapse: features vary along few directions only",
    Kind.CLUSTER: "cluster collapse: nearly all images are in the same few clusters",
}


def kind_of(value: float) -> Kind:
    """The kind that a logged value of `diag/collapse` stands for; of one that is none, NONE."""
    return Kind(int(value)) if value in list(Kind) else Kind.NONE


def diagnose(found: Mapping[str, float], untrained: Mapping[str, float] | None = None) -> Finding:
    """What the numbers of `diagnostics` say, looked at in this order.

    - constant: `feature_std` below 0.03, or below 0.3 (a deviation of 0.3 / sqrt(D), a third of
      what SimSiam, 2011.10566, section 4.1, calls healthy) and 0.3 of the untrained network's;
    - dimensional: `rankme` below 2, or below 0.1 `dimensions` and 0.3 of the untrained network's;
    - cluster: `cluster_entropy` below 0.05, or below 0.2 and 0.3 of the untrained network's.

    Numbers that are not there show nothing.

    Args:
      found: names without "diag/".
      untrained: the same of the untrained network, where they are known.
    """
    before = untrained or {}

    def fallen(name: str, low: float, none: float) -> bool:
        value = found.get(name, float("inf"))
        return value < none or (value < low and value < FALL * before.get(name, 0.0))

    def shown(name: str) -> str:
        text = f"{name} {found[name]:.3g}"
        return f"{text}, untrained {before[name]:.3g}" if name in before else text

    dimensions = found.get("dimensions", 0.0)
    if fallen("feature_std", LOW_STD, NO_STD):
        return Finding(
            Kind.CONSTANT,
            shown("feature_std"),
            "a lower optim.lr or a longer warmup; check stop-gradient, predictor and teacher",
        )
    if dimensions > NO_RANK and fallen("rankme", LOW_RANK * dimensions, NO_RANK):
        return Finding(
            Kind.DIMENSIONAL,
            f"{shown('rankme')}, of {dimensions:.0f}",
            "a lower optim.lr, stronger augmentation, a larger batch",
        )
    if fallen("cluster_entropy", LOW_ENTROPY, NO_ENTROPY):
        return Finding(
            Kind.CLUSTER,
            shown("cluster_entropy"),
            "a lower optim.lr, a larger batch, and more weight on what balances the clusters",
        )
    return Finding(Kind.NONE)


def cluster_entropy(logits: Sequence[Array]) -> Array:
    """How evenly images use clusters: the entropy of their shares over its maximum, ln min(N, K).

    1 where all are used alike, 0 where all images are in one. Of several heads the lowest.

    Args:
      logits: (N, K) of each head; an image's cluster is where they are largest.
    """
    found = []
    for scores in logits:
        n, k = scores.shape
        shares = jnp.bincount(jnp.argmax(scores, -1), length=k) / n
        most = jnp.log(jnp.maximum(min(n, k), 2))
        found.append(jnp.sum(jax.scipy.special.entr(shares)) / most)
    return jnp.min(jnp.stack(found))
