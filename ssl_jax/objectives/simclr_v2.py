"""SimCLR v2: big self-supervised models are strong semi-supervised learners (2006.10029)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from ssl_jax.core import rng, tree
from ssl_jax.core.ranges import Count, Probability, Whole
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.objectives.base import Aux, Probe
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.simclr import SimCLR

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class SimCLRv2(SimCLR):
    """SimCLR with a deeper head, whose first layer stays with the network, and with a memory if
    wanted.

    That layer is the backbone's (`backbone.neck`, as wide as the features): `supervised` with
    `train.init_from` then fine-tunes from inside the head, with nothing to set. Probes read the
    features in front of it, as the paper's linear evaluation does. `simclr_v2_distillation` is the
    third step.

    Attributes:
      projector: widths of the head's layers after the neck.
      queue_size: number of old keys that are further negatives of every view (section 2.1): a
        multiple of the global batch, at most the data set; 0 for none.
      momentum: momentum of the average of the networks that computes the keys.
    """

    probe: ClassVar[Probe] = Probe(pool="avg")

    projector: tuple[Count, ...] = (2048, 128)
    queue_size: Whole = 0
    momentum: Probability = 0.999

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        if not self.queue_size:
            return params, extra
        dim, where = self.projector[-1], rng.named(key, "queue")
        return params, {
            "stats": extra["stats"],
            "key_encoder": params,  # starts as a copy
            "key_stats": extra["stats"],
            "queue": queue.init(where, self.queue_size, dim, self.spec),
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        if not self.queue_size:
            return super().loss(params, extra, batch, key, step)
        z, stats = self.embed(params, extra, batch)
        negatives = jax.lax.stop_gradient(queue.keys(extra["queue"]))
        form = self.similarity
        loss = ntxent(z, self.temperature, negatives, reduction="simclr", similarity=form)

        # One view of each image is remembered.
        slow = self.networks.bind(extra["key_encoder"], extra["key_stats"])
        keys = slow.projector(slow.backbone(batch["views"][0][:, 0]).pooled)
        signals = {"keys": l2_normalize(jax.lax.stop_gradient(keys), floor="norm")}
        return loss, Aux(dict(extra, stats=stats, key_stats=slow.stats), signals)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        if not self.queue_size:
            return params, extra
        average = tree.ema(extra["key_encoder"], params, self.momentum)
        pushed = queue.push(extra["queue"], signals["keys"])
        return params, dict(extra, key_encoder=average, queue=pushed)

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return (extra["key_encoder"], extra["key_stats"]) if self.queue_size else None


make = SimCLRv2.make
