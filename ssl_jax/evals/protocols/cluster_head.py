"""Unsupervised classification by the method's own clusters: its head, its prototypes.

Self-Classifier (2103.10994) is measured this way; `clustering` serves methods without clusters.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Whole
from ssl_jax.evals import features
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import check_varied
from ssl_jax.evals.protocols.clustering import agreements
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
        (assignments, logits), index = features.collect(  # the logits for `collect` to check
            lambda batch, _: _clusters(subject.encoder, images.view, self.head, batch),
            images.batches(part),
            images.mesh,
        )
        check_varied(logits, "logits")
        ((clusters, labels),) = images.labelled_rows(part, [assignments], index)
        if above:
            rows = above.rows(labels)
            clusters, labels = clusters[rows], labels[rows]
        numbers = {**agreements(clusters, labels, above), "used": float(len(np.unique(clusters)))}
        return {f"cluster_head_{name}": value for name, value in numbers.items()}


def _argmax(encoder: Encoder, view: View, head: int, images: Array) -> tuple[Array, Array]:
    """Return clusters (B,) int32 of uint8 images (B, H, W, C), their largest and first logits."""
    assert encoder.clusters is not None
    heads = encoder.clusters.logits(encoder.features(prepare(view, images))["pooled"])
    if not 0 <= head < len(heads):
        raise UserError(
            f"cluster_head: no head {head}; the method has {len(heads)}, counted from 0"
        )
    logits = heads[head].astype(jnp.float32)
    most = jnp.stack([logits.max(-1), logits[:, 0]], axis=-1)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), most


# The encoder is an argument, not a closure: one compile for every step's weights.
_clusters = jax.jit(_argmax, static_argnums=(1, 2))
