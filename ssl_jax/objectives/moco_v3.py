"""MoCo v3: an empirical study of training self-supervised vision transformers (2104.02057)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive, Probability
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Group, Objective, View
from ssl_jax.objectives.parts.ema import cosine_momentum
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.views import separate

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MoCoV3(Objective):
    """The prediction from one view is matched to the key of the other among the batch's keys.

    Keys come from a slow average of the encoder; there is no queue. A ViT's patch embedding stays
    at its random initialisation, which keeps the training stable (section 4.3).

    Attributes:
      views: the two views, each with its own augmentation (count 1).
      projector: widths of its layers, each with batch norm, the last without scale and offset; a
        ViT's are (4096, 4096, 256).
      predictor: hidden and output width.
      predictor_norm: batch norm after the predictor's last layer: released with ViTs, not with
        ResNets.
      temperature: temperature of the softmax over similarities; 0.2 for ViTs, 1 for ResNets.
      momentum: momentum of the key encoder's average at step 0; it rises to 1 along a cosine.
      freeze_patches: whether a ViT's patch embedding is frozen; other backbones have none.
      similarity: whether the loss holds the similarities of queries and keys; see
        `losses.large_batch.similarity`.
    """

    family: ClassVar[str] = "contrastive"
    needs: ClassVar[str] = "a large global batch"
    least_batch: ClassVar[int] = 2

    views: tuple[OneCrop, OneCrop] = (
        View(224, area=(0.2, 1.0), recipe="dino_1"),
        View(224, area=(0.2, 1.0), recipe="dino_2"),
    )
    projector: tuple[Count, ...] = (4096, 256)
    predictor: tuple[Count, ...] = (4096, 256)
    predictor_norm: bool = False
    temperature: Positive = 1.0
    momentum: Probability = 0.99
    freeze_patches: bool = True
    similarity: Similarity = "auto"

    @cached_property
    def networks(self) -> Networks:
        projector = mlp_head(self.feature_dim, self.projector, last_norm="no_affine", init="torch")
        predictor = mlp_head(
            self.projector[-1],
            self.predictor,
            last_norm="no_affine" if self.predictor_norm else None,
            last_bias=False,
            init="torch",
        )
        return self.backbone_and(projector=projector, predictor=predictor)

    @cached_property
    def frozen(self) -> tuple[str, ...]:
        """Names of the backbone's parts that are not trained."""
        params, _ = jax.eval_shape(self.backbone.init, jax.random.key(0))
        return ("patch_embed",) if self.freeze_patches and "patch_embed" in params else ()

    def groups(self) -> dict[str, Group]:
        """Freeze by groups: without a gradient, weight decay would still shrink the part."""
        never = self.spec.total_steps
        return {name: Group(f"^backbone/{name}/", frozen_until=never) for name in self.frozen}

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        key_encoder, key_stats = (  # starts as a copy, without predictor
            {name: each[name] for name in ("backbone", "projector")} for each in (params, stats)
        )
        return params, {"stats": stats, "key_encoder": key_encoder, "key_stats": key_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        fixed = {name: jax.lax.stop_gradient(params["backbone"][name]) for name in self.frozen}
        params = dict(params, backbone=params["backbone"] | fixed)
        nets = self.networks.bind(params, extra["stats"])
        key_nets = self.networks.bind(extra["key_encoder"], extra["key_stats"])
        queries, keys = [], []
        for view in separate(batch["views"]):  # one by one: batch norm sees each view by itself
            queries.append(nets.predictor(nets.projector(nets.backbone(view).pooled)))
            keys.append(key_nets.projector(key_nets.backbone(view).pooled))
        crossed = [
            infonce(q, k, self.temperature, similarity=self.similarity)
            for q, k in zip(queries, keys[::-1], strict=True)
        ]
        # Times 2t, so that the gradient's size hardly depends on the temperature.
        loss = 2 * self.temperature * jnp.mean(sum(crossed))
        return loss, Aux(dict(extra, stats=nets.stats, key_stats=key_nets.stats))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["key_encoder"], extra["key_stats"]

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        # As released, the average is updated before the keys of a step, with that step's momentum.
        momentum = cosine_momentum(step + 1, self.spec.total_steps, self.momentum)
        online = {name: params[name] for name in extra["key_encoder"]}
        return params, dict(extra, key_encoder=tree.ema(extra["key_encoder"], online, momentum))


make = MoCoV3.make
