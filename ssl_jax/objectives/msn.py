"""MSN: masked siamese networks for label-efficient learning (2204.07141)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax.augment.masks import random_masking
from ssl_jax.core import rng, tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import BelowOne, Count, NonNegative, Positive, Probability, Several, Whole
from ssl_jax.losses.cross_entropy import divergence, soft_cross_entropy
from ssl_jax.losses.msn import log_mean_probability, sharpened
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Encoder, Heads, Objective, View
from ssl_jax.objectives.parts.ema import linear_momentum
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.views import fold, unfold

Array = jax.Array
Tree = Any

HORIZON = 1.25  # length of the release's schedules, in runs: none of them reaches its end


@dataclass(frozen=True)
class MSN(Objective):
    """Views with missing patches, the anchors, are assigned to the same prototypes as a whole view,
    the target; the prototypes are used evenly over all anchors.

    The backbone is a ViT. The target's encoder is the slow average of the anchors' and the
    resulting encoder. Each anchor has its own patches, which the release draws once per device and
    step.

    Attributes:
      views: groups of crops. In the first one are the target and the random anchors, whose patches
        are dropped; the others are focal anchors, small crops with all patches.
      patch_drop: share of the patches that random anchors lose.
      projector: widths of the head, with GELU.
      head_norm: "batch" for batch norm in the head, over the crops of a size.
      prototypes: number of prototypes, K.
      temperature: temperature of the cosines with the prototypes, tau.
      sharpening: temperature of the targets on top of it, T.
      iterations: of Sinkhorn-Knopp on the targets; 0 for none.
      prior_weight: weight of the divergence of the anchors' mean assignment from the prior.
      entropy_weight: weight of the mean entropy of the anchors' assignments.
      momentum: momentum of the average at step 0; on a line it rises to 1 at 5/4 of the run.
    """

    family: ClassVar[str] = "siamese"
    needs: ClassVar[str] = "a ViT backbone"
    least_batch: ClassVar[int] = 2
    decays: ClassVar[str] = r"cls_token$"  # the release counts axes, and it has three

    views: tuple[View, ...] = (
        View(224, 2, (0.3, 1.0), "moco_v2"),
        View(96, 10, (0.05, 0.3), "moco_v2"),
    )
    patch_drop: BelowOne = 0.15
    projector: tuple[Count, ...] = (2048, 2048, 256)
    head_norm: Literal["batch"] | None = "batch"
    prototypes: Several = 1024
    temperature: Positive = 0.1
    sharpening: Positive = 0.25
    iterations: Whole = 3
    prior_weight: NonNegative = 1.0
    entropy_weight: NonNegative = 0.0
    momentum: Probability = 0.996

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.views or self.views[0].count < 2:
            raise UserError(
                "objective.views: the first group holds the target and the random anchors; set "
                "its count to 2 or more"
            )

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(
            self.patch_grid[1],
            self.projector,
            norm=self.head_norm,
            init="normal0.02",
            activation="gelu",
        )
        return self.backbone_and(projector=head)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, stats = self.networks.init(key)
        extra = {"stats": stats, "teacher": params, "teacher_stats": stats}  # starts as a copy
        width = self.projector[-1]
        shape, bound = (self.prototypes, width), width**-0.5
        prototypes = jax.random.uniform(
            rng.named(key, "prototypes"), shape, jnp.float32, -bound, bound
        )
        return params | {"prototypes": prototypes}, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        large, *focal = batch["views"]
        online = self.networks.bind(params, extra["stats"])
        average = self.networks.bind(extra["teacher"], extra["teacher_stats"])
        target = self.embed(average, large[:, :1])
        keep = self.keep(rng.per_example(key, batch["index"]))
        anchors = [self.embed(online, large[:, 1:], keep)]
        anchors += [self.embed(online, crops) for crops in focal]

        logits = self.assign(params["prototypes"], jnp.concatenate(anchors, axis=1))  # (B, V, K)
        targets = self.assign(params["prototypes"], target)  # (B, 1, K)
        targets = sharpened(targets, self.sharpening, self.iterations)
        prediction = jnp.mean(soft_cross_entropy(logits, jnp.broadcast_to(targets, logits.shape)))
        prior = self.prior_divergence(log_mean_probability(logits))
        entropy = jnp.mean(soft_cross_entropy(logits, jax.nn.softmax(logits)))
        loss = prediction + self.prior_weight * prior + self.entropy_weight * entropy

        extra = dict(extra, stats=online.stats, teacher_stats=average.stats)
        metrics = {"prediction_loss": prediction, "prior_divergence": prior, "entropy": entropy}
        return loss, Aux(extra, metrics=metrics)

    def keep(self, keys: Array) -> Array:
        """Draw the patches (B, V, P) of the random anchors with keys (B,).

        Raises:
          UserError: no patch is left.
        """
        shape = (self.views[0].count - 1, self.patch_grid[0] ** 2)
        noise = jax.vmap(lambda k: jax.random.uniform(k, shape))(keys)
        keep = random_masking(noise, self.patch_drop)[0]
        if not keep.shape[-1]:
            raise UserError(
                f"objective.patch_drop: {self.patch_drop} leaves none of {shape[1]} patches; use "
                f"at most {1 - 1 / shape[1]:g}"
            )
        return keep

    def embed(self, nets: Bound, crops: Array, keep: Array | None = None) -> Array:
        """Embed crops (B, V, H, W, C), or their patches `keep` (B, V, P), to (B, V, D)."""
        patches = None if keep is None else fold(keep)
        features = nets.backbone(fold(crops), keep=patches)
        return unfold(nets.projector(features.pooled), crops.shape[1])

    def assign(self, prototypes: Array, z: Array) -> Array:
        """Compute the logits (..., K) of the assignments of embeddings (..., D)."""
        z, prototypes = (l2_normalize(x, floor="norm") for x in (z, prototypes))
        return jnp.matmul(z, prototypes.T, precision="highest") / self.temperature

    def prior_divergence(self, log_mean: Array) -> Array:
        """Compute `KL(p || uniform)`, log K - H(p), of the mean assignment: log p is (K,)."""
        return divergence(jnp.zeros_like(log_mean), jnp.exp(log_mean))

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        momentum = linear_momentum(step, round(HORIZON * self.spec.total_steps), self.momentum)
        online = {name: params[name] for name in extra["teacher"]}
        return params, dict(extra, teacher=tree.ema(extra["teacher"], online, momentum))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return extra["teacher"], extra["teacher_stats"]

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        teacher, stats = extra["teacher"], extra["teacher_stats"]
        after = {
            "params": {"projector": teacher["projector"]},
            "stats": {"projector": stats["projector"]},
            "prototypes": params["prototypes"],
        }
        clusters = Heads(after, self._score)
        return Encoder(teacher["backbone"], stats["backbone"], self.backbone, clusters=clusters)

    def _score(self, after: Tree, pooled: Array) -> Sequence[Array]:
        nets = self.networks.bind(after["params"], after["stats"], train=False)
        return [self.assign(after["prototypes"], nets.projector(pooled))]


make = MSN.make
