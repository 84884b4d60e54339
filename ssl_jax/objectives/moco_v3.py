"""MoCo v3: an empirical study of training self-supervised vision transformers (2104.02057)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import tree
from ssl_jax.core.ranges import Count, Positive, Probability
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Group, Objective, View
from ssl_jax.objectives.parts.branch import Branch
from ssl_jax.objectives.parts.ema import cosine_momentum
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

    views: tuple[View, View] = (
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
    def key_branch(self) -> Branch:
        head = mlp_head(self.feature_dim, self.projector, last_norm="no_affine", init="torch")
        return self.chain(projector=head)

    @cached_property
    def branch(self) -> Branch:
        head = mlp_head(
            self.projector[-1],
            self.predictor,
            last_norm="no_affine" if self.predictor_norm else None,
            last_bias=False,
            init="torch",
        )
        return self.key_branch.then(predictor=head)

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
        params, stats = self.branch.init(key)
        names = [name for name, _ in self.key_branch.nets]  # the key encoder starts as a copy
        return params, {
            "stats": stats,
            "key_encoder": {name: params[name] for name in names},
            "key_stats": {name: stats[name] for name in names},
        }

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        fixed = {name: jax.lax.stop_gradient(params["backbone"][name]) for name in self.frozen}
        params = dict(params, backbone=params["backbone"] | fixed)
        views = separate(batch["views"])
        queries, stats = self.branch.apply_each(params, extra["stats"], views)
        keys, key_stats = self.key_branch.apply_each(
            extra["key_encoder"], extra["key_stats"], views
        )
        crossed = [
            infonce(q["predictor"], k["projector"], self.temperature, similarity=self.similarity)
            for q, k in zip(queries, keys[::-1], strict=True)
        ]
        # Times 2t, so that the gradient's size hardly depends on the temperature.
        loss = 2 * self.temperature * jnp.mean(sum(crossed))
        return loss, Aux(dict(extra, stats=stats, key_stats=key_stats))

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
