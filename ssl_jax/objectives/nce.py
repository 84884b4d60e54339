"""NCE: noise-contrastive estimation of a density over images (Gutmann and Hyvarinen 2010).

The data of an embedding is its own image, the noise is a uniform draw of images. Their vectors are
the memory of `instdisc` (1805.01978), whose estimate of the normaliser is one of three here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.losses.nce import estimate_partition, nce
from ssl_jax.objectives.base import Aux
from ssl_jax.objectives.instdisc import InstDisc

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class NCE(InstDisc):
    """Each image is told from drawn images by the density `exp(cosine / temperature + c)` of a
    model.

    Attributes:
      negatives: number of images drawn as noise for each image, fewer than there are.
      normaliser: c, which stands for -log Z. "trained": a parameter, as in the paper, that starts
        at -log N, where orthogonal vectors have it. "estimated": from the first batch, then
        constant (`instdisc`). "none": 0, so that the model normalises itself.
    """

    negatives: Count = 4096
    normaliser: Literal["trained", "estimated", "none"] = "trained"

    def __post_init__(self) -> None:
        # First, as the memory's own check suggests 0, which compares with all.
        if self.negatives >= self.spec.num_examples:
            raise UserError(
                f"objective.negatives: cannot draw {self.negatives} of {self.spec.num_examples} "
                "examples; set fewer than there are, such as a third"
            )
        super().__post_init__()

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        estimate = extra.pop("partition")
        if self.normaliser == "trained":
            params["normaliser"] = -jnp.log(jnp.float32(self.spec.num_examples))
        if self.normaliser == "estimated":
            extra["partition"] = estimate
        return params, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        index, count = batch["index"], self.spec.num_examples
        features, stats = self.embed(params, extra, batch)
        scores = self.candidate_scores(features, extra["memory"], index, key)
        extra = dict(extra, stats=stats)
        if self.normaliser == "estimated":
            first = estimate_partition(scores, count).astype(extra["partition"].dtype)
            extra["partition"] = jnp.where(extra["partition"] > 0, extra["partition"], first)
            scores -= jnp.log(extra["partition"])
        metrics = {}
        if self.normaliser == "trained":
            scores += params["normaliser"]
            metrics["normaliser"] = params["normaliser"]
        loss = nce(scores, 1 / count)
        return loss, Aux(extra, signals={"features": features, "index": index}, metrics=metrics)


make = NCE.make
