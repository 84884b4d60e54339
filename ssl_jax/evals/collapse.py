"""Collapse: whether a representation has lost what distinguishes images, and in which way.

An untrained network looks partly collapsed too: most images share a direction that is far longer
than their differences. So a number counts as a sign of collapse if it is low and also far below
that of the same network untrained.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.losses.shapes import check_shapes

Array = jax.Array

SIGNS = (
    "feature_std",
    "rankme",
    "cluster_entropy",
    "code_entropy",
)  # numbers that tell of collapse
LOW_STD, NO_STD = 0.3, 0.03  # of `feature_std`, 1 for directions spread evenly
LOW_RANK, NO_RANK = 0.1, 2.0  # of RankMe: as a share of the dimensions, and absolute
LOW_ENTROPY, NO_ENTROPY = 0.2, 0.05  # of clusters or codes, 1 if they are used alike
FALL = 0.3  # share of the untrained network's number


class Kind(enum.IntEnum):
    """The value of the metric `diag/collapse`."""

    NONE = 0
    CONSTANT = 1
    DIMENSIONAL = 2
    CLUSTER = 3
    CODES = 4


class Finding(NamedTuple):
    """A kind of collapse, the numbers that show it, and what to try."""

    kind: Kind
    evidence: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return f"{SAYS[self.kind]} ({self.evidence}); try {self.advice}" if self.kind else "none"


SAYS = {
    Kind.NONE: "none",
    Kind.CONSTANT: "constant collapse: all images get nearly the same features",
    Kind.DIMENSIONAL: "dimensional collapse: features vary along few directions only",
    Kind.CLUSTER: "cluster collapse: nearly all images are in the same few clusters",
    Kind.CODES: "codebook collapse: nearly all places of all images have the same few codes",
}


def kind_of(value: float) -> Kind:
    """Return the kind that a logged value of `diag/collapse` stands for; NONE for any other."""
    return Kind(int(value)) if value in list(Kind) else Kind.NONE


def diagnose(numbers: Mapping[str, float], untrained: Mapping[str, float] | None = None) -> Finding:
    """Diagnose collapse from the numbers of `diagnostics`, checked in this order.

    - constant: `feature_std` below 0.03, or below 0.3 (a deviation of 0.3 / sqrt(D), a third of
      what SimSiam, 2011.10566, section 4.1, calls healthy) and 0.3 of the untrained network's;
    - dimensional: `rankme` below 2, or below 0.1 `dimensions` and 0.3 of the untrained network's;
    - cluster: `cluster_entropy` below 0.05, or below 0.2 and 0.3 of the untrained network's;
    - codes: `code_entropy`, likewise.

    Missing numbers show nothing.

    Args:
      numbers: names without "diag/".
      untrained: the same numbers of the untrained network, if available.
    """
    before = untrained or {}

    def is_low(name: str, low: float, none: float) -> bool:
        value = numbers.get(name, float("inf"))
        return value < none or (value < low and value < FALL * before.get(name, 0.0))

    def evidence(name: str) -> str:
        text = f"{name} {numbers[name]:.3g}"
        return f"{text}, untrained {before[name]:.3g}" if name in before else text

    dimensions = numbers.get("dimensions", 0.0)
    if is_low("feature_std", LOW_STD, NO_STD):
        return Finding(
            Kind.CONSTANT,
            evidence("feature_std"),
            "a lower optim.lr or a longer warmup; check stop-gradient, predictor and teacher",
        )
    if dimensions > NO_RANK and is_low("rankme", LOW_RANK * dimensions, NO_RANK):
        return Finding(
            Kind.DIMENSIONAL,
            f"{evidence('rankme')}, of {dimensions:.0f}",
            "a lower optim.lr, stronger augmentation, a larger batch",
        )
    if is_low("cluster_entropy", LOW_ENTROPY, NO_ENTROPY):
        return Finding(
            Kind.CLUSTER,
            evidence("cluster_entropy"),
            "a lower optim.lr, a larger batch, and more weight on what balances the clusters",
        )
    if is_low("code_entropy", LOW_ENTROPY, NO_ENTROPY):
        return Finding(
            Kind.CODES,
            evidence("code_entropy"),
            "a lower optim.lr, a temperature that falls more slowly, fewer codes",
        )
    return Finding(Kind.NONE)


def cluster_entropy(logits: Sequence[Array]) -> Array:
    """Return the `evenness` of the clusters; with several heads, the lowest of theirs.

    Args:
      logits: (N, K) of each head; an image's cluster is the argmax.
    """
    entropies = [evenness(jnp.argmax(scores, -1), scores.shape[1]) for scores in logits]
    return jnp.min(jnp.stack(entropies))


def evenness(index: Array, count: int) -> Array:
    """Return the entropy of the shares of `count` clusters or codes over its maximum, ln min(N, K).

    It is 1 if all are used alike, 0 if only one is.

    Args:
      index: (N,) int, the cluster or code of each image or place.
    """
    check_shapes("evenness: index (N) int", index)
    shares = jnp.bincount(index, length=count) / len(index)
    most = jnp.log(jnp.maximum(min(len(index), count), 2))
    return jnp.sum(jax.scipy.special.entr(shares)) / most
