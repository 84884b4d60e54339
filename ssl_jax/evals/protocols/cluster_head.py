"""Unsupervised classification by the method's own clusters: its head, its prototypes.

Self-Classifier (2103.10994) is measured this way; `clustering` serves methods without clusters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Whole
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.checks import check_varied
from ssl_jax.evals.protocols.clustering import agreement_titles, agreements
from ssl_jax.evals.superclasses import read_superclasses
from ssl_jax.objectives.base import Encoder

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class ClusterHead(Protocol):
    """Agreement of the clusters of the method's own head (`Encoder.clusters`) with the classes.

    An image's cluster is the largest logit of its central crop. `cluster_head_used` is the number
    of clusters that have at least one image.

    Attributes:
      head: index of the head, for methods with several.
      part: the images: "test" or "train".
      superclasses: file of superclasses (`superclasses.read_superclasses`); classes that are not in
        it are left out.
    """

    titles: ClassVar[Mapping[str, str]] = {
        **agreement_titles("cluster_head", "the network's own clusters"),
        "cluster_head_used": "the network's own clusters, number in use",
    }
    scores: ClassVar[tuple[str, ...]] = ("cluster_head_acc",)

    head: Whole = 0
    part: Literal["train", "test"] = "test"
    superclasses: str | None = None

    needs: ClassVar[str] = "clusters of the method's own, and labels"

    def applies(self, subject: Subject) -> bool:
        encoder = subject.encoder
        return subject.labelled and encoder is not None and encoder.clusters is not None

    def measure(self, subject: Subject) -> dict[str, float]:
        images, path = subject.images, self.superclasses
        above = read_superclasses(path, subject.class_names) if path else None
        part = images.train if self.part == "train" else images.test
        (assignments, logits), index = subject.map(_clusters, part, self.head)
        check_varied(logits, "logits")
        ((clusters, labels),) = images.labelled_rows(part, [assignments], index)
        if above:
            rows = above.rows(labels)
            clusters, labels = clusters[rows], labels[rows]
        numbers = {**agreements(clusters, labels, above), "used": float(len(np.unique(clusters)))}
        return {f"cluster_head_{name}": value for name, value in numbers.items()}


def _clusters(encoder: Encoder, batch: Batch, head: int) -> tuple[Array, Array]:
    """Return clusters (B,) int32 and, to be checked, the largest and the first of the logits."""
    assert encoder.clusters is not None
    heads = encoder.clusters.logits(encoder.features(batch.images).pooled)
    if not 0 <= head < len(heads):
        raise UserError(
            f"cluster_head: no head {head}; the method has {len(heads)}, counted from 0"
        )
    logits = heads[head].astype(jnp.float32)
    most = jnp.stack([logits.max(-1), logits[:, 0]], axis=-1)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), most
