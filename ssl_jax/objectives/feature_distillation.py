"""Feature distillation: contrastive learning rivals masked image modeling in fine-tuning via
feature distillation (2205.14141).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax

from ssl_jax.core import rng
from ssl_jax.core.ranges import Positive
from ssl_jax.losses.feature_distillation import feature_distillation
from ssl_jax.nets.features import Features
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux
from ssl_jax.objectives.parts.networks import Networks
from ssl_jax.objectives.parts.teacher import TokenStudent
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class FeatureDistillation(TokenStudent):
    """A student predicts every token of a frozen, pretrained teacher for the same crop.

    The teacher's tokens are whitened; the student is regularised by its stochastic depth
    (`backbone.drop_path`), which the teacher does not have, and by a relative position bias that
    all blocks share (`backbone.position="relative"`). The class token is learned if both networks
    have one.

    Attributes:
      beta: error at which the loss turns from a square to linear.
    """

    family: ClassVar[str] = "siamese"

    beta: Positive = 2.0

    @cached_property
    def networks(self) -> Networks:
        width, teacher_width = self.token_widths
        return self.backbone_and(decoder=mlp_head(width, (teacher_width,), init="torch"))

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images = fold(batch["views"][0])
        target = self.teach(extra, images)
        options = {"keys": rng.per_example(key, batch["index"])} if self.backbone.draws else {}
        nets = self.networks.bind(params, extra["stats"])
        prediction = nets.decoder(self.tokens(nets.backbone(images, **options)))
        loss = feature_distillation(prediction, self.tokens(target), self.beta)
        return loss, Aux(dict(extra, stats=nets.stats))

    def tokens(self, features: Features) -> Array:
        """Select the tokens (B, T, D) that both networks have."""
        both = self.shapes.cls is not None and self.teacher_shapes.cls is not None
        tokens = features.tokens if both else features.patches
        assert tokens is not None  # `networks` refuses others
        return tokens


make = FeatureDistillation.make
