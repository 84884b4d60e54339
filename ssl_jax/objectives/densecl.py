"""DenseCL: dense contrastive learning for self-supervised visual pre-training (2011.09157)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Probability
from ssl_jax.losses.densecl import most_similar
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Picture
from ssl_jax.objectives.moco_v2 import MoCoV2
from ssl_jax.objectives.parts import queue
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS, from_matches

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class DenseCL(MoCoV2):
    """MoCo v2 for images and, beside it, for the places of their maps.

    A second head works on every place of the backbone's map. The key of a place is the one of the
    key encoder's map whose backbone feature has the largest cosine with its own; the negatives are
    a second queue, to which each image adds the mean of its dense keys before normalisation.

    Attributes:
      dense_projector: widths of the head of the places, 1x1 convolutions with ReLU between them.
      dense_weight: share of the loss of the places, the paper's lambda.
    """

    dense_projector: tuple[Count, ...] = (2048, 128)
    dense_weight: Probability = 0.5

    @cached_property
    def networks(self) -> Networks:
        head = mlp_head(self._width, self.dense_projector, norm=None, init="torch")
        usual = super().networks
        return replace(usual, nets={**usual.nets, "dense_projector": head})

    @property
    def _width(self) -> int:
        """Channels of the backbone's map.

        Raises:
          UserError: the backbone has none.
        """
        if self.shapes.map is None:
            raise UserError("objective: this backbone has no map; set backbone.name='resnet'")
        return self.shapes.map.shape[-1]

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = super().init(key)
        size, dim = self.queue_size, self.dense_projector[-1]
        dense = queue.init(rng.named(key, "dense_queue"), size, dim, self.spec)
        # The rules of sharding know a queue by this name.
        return params, extra | {"dense": {"queue": dense}}

    def encode(self, nets: Bound, images: Array) -> dict[str, Any]:
        """Add to the outputs "places", the backbone's map (B, n, C), and "dense", (B, n, d)."""
        outputs = super().encode(nets, images)
        flat = outputs["backbone"].map.reshape(len(images), -1, self._width)
        return outputs | {"places": flat, "dense": nets.dense_projector(flat)}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        views = batch["views"][0]
        nets = self.networks.bind(params, extra["stats"])
        query = self.encode(nets, views[:, 0])
        example_keys = rng.per_example(key, batch["index"])
        encoded, key_stats = self.encode_keys(extra, views[:, 1], example_keys)
        keys = {
            "keys": l2_normalize(encoded["projector"], floor="norm"),
            "dense": l2_normalize(encoded["dense"].mean(1), floor="norm"),
        }
        image, places = self.criteria(query, encoded, extra)
        loss = (1 - self.dense_weight) * image + self.dense_weight * places
        metrics = {"image_loss": image, "dense_loss": places}
        return loss, Aux(dict(extra, stats=nets.stats, key_stats=key_stats), keys, metrics)

    def criteria(self, query: Tree, encoded: Tree, extra: Tree) -> tuple[Array, Array]:
        """Compute the scalar losses of images and of places, from the outputs of `encode` and
        `encode_keys` and the queues.
        """
        old, dense_old = (
            jax.lax.stop_gradient(queue.keys(x)) for x in (extra["queue"], extra["dense"]["queue"])
        )
        keys = l2_normalize(encoded["projector"], floor="norm")
        matches = most_similar(query["places"], encoded["places"])
        matched = jnp.take_along_axis(encoded["dense"], matches[..., None], axis=1)
        dense, matched = (x.reshape(-1, x.shape[-1]) for x in (query["dense"], matched))
        image = self.contrast(query["projector"], keys, old)
        return image, self.contrast(dense, matched, dense_old)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        params, extra = super().after_update(params, extra, signals, step)
        dense = queue.push(extra["dense"]["queue"], signals["dense"])
        return params, dict(extra, dense={"queue": dense})

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        first = images[:ROWS]
        second = first[:, :, ::-1]
        nets = self.networks.bind(params, extra["stats"], train=False)
        maps = [nets.backbone(view).map for view in (first, second)]
        flat = [x.reshape(len(x), -1, self._width) for x in maps]
        caption = (
            "Each patch of the first image is replaced by the patch of its mirror image whose "
            "backbone feature is most similar: the pairs that the loss of places pulls together. A "
            "good match shows the same part, mirrored."
        )
        rebuilt = from_matches(second, most_similar(*flat), maps[0].shape[1:3])
        columns = ("image", "mirror image", "image from matched patches")
        pictures = Picture(jnp.stack([first, second, rebuilt], axis=1), caption, columns)
        return {"Matched places": pictures}


make = DenseCL.make
