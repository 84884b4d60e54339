"""CLIP: learning transferable visual models from natural language supervision (2103.00020)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.losses.clip import clip_loss
from ssl_jax.losses.large_batch.similarity import Similarity
from ssl_jax.nets.blocks import Remat
from ssl_jax.nets.functional import Net
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.text import text_transformer
from ssl_jax.objectives.base import Aux, Encoder, Inputs, Objective, TextTower, View
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any

IMAGE, TEXT = ("backbone", "image_projection"), ("text", "text_projection")


@dataclass(frozen=True)
class CLIP(Objective):
    """Images and their captions attract in a joint space; all other pairs of the batch repel.

    The temperature is learned, as the logarithm of its inverse.

    Attributes:
      view: crop and augmentation of the image (count 1); the published one is minimal.
      context: tokens of a caption, including start and end.
      dim: width of the joint space.
      text_dim, text_depth, text_heads: sizes of the text transformer.
      text_remat: what its backward pass recomputes; see `nets.blocks`.
      temperature: initial temperature.
      max_scale: the inverse of the smallest temperature, enforced after every update.
      similarity: whether the loss holds the similarities of all pairs; see
        `losses.large_batch.similarity`.

    Raises:
      UserError: a temperature below 1 / max_scale, or no room for a token in `context`.
    """

    family: ClassVar[str] = "multi-modal"
    needs: ClassVar[str] = "captions, a large global batch"
    least_batch: ClassVar[int] = 2

    view: OneCrop = View(224, area=(0.9, 1.0), recipe="normalize")
    context: Count = 77
    dim: Count = 512
    text_dim: Count = 512
    text_depth: Count = 12
    text_heads: Count = 8
    text_remat: Remat = "none"
    temperature: Positive = 0.07
    max_scale: Positive = 100.0
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature * self.max_scale >= 1:
            raise UserError(
                f"objective.temperature: {self.temperature} is below 1 / max_scale = "
                f"{1 / self.max_scale}"
            )
        if self.context < 3:
            raise UserError(
                f"objective.context: {self.context} has no room for a token; set it to 3 or more"
            )

    @cached_property
    def networks(self) -> Networks:
        text = text_transformer(
            self.spec.vocabulary,
            self.context,
            self.text_dim,
            self.text_depth,
            self.text_heads,
            remat=self.text_remat,
        )
        networks = self.backbone_and(
            image_projection=self._projection(self.feature_dim),
            text=text,
            text_projection=self._projection(self.text_dim),
        )
        return replace(networks, chunked=("backbone", "text"))

    def _projection(self, dim: int) -> Net:
        return mlp_head(dim, (self.dim,), last_bias=False)

    def inputs(self) -> Inputs:
        return Inputs(views=(self.view,), text=self.context)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        image, text = (self.networks.only(*names) for names in (IMAGE, TEXT))
        params, stats = image.init(rng.named(key, "image"))
        text_params, text_stats = text.init(rng.named(key, "text"))
        # Named like a scale, so that it does not decay.
        temperature = {"scale": jnp.full((), -math.log(self.temperature), jnp.float32)}
        return params | text_params | {"temperature": temperature}, {"stats": stats | text_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, texts = batch["views"][0][:, 0], batch["text"]
        nets = self.networks.bind(params, extra["stats"])
        image = nets.image_projection(nets.backbone(images).pooled)
        text = nets.text_projection(nets.text(texts).pooled)
        scale = jnp.exp(params["temperature"]["scale"])
        pairs = clip_loss(image, text, scale, similarity=self.similarity)
        # Geometric mean over both directions, then mean over pairs; this needs no logits.
        metrics = {"pair_probability": jnp.mean(jnp.exp(-pairs)), "scale": scale}
        return jnp.mean(pairs), Aux({"stats": nets.stats}, metrics=metrics)

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        clamp = lambda scale: jnp.minimum(scale, math.log(self.max_scale))  # noqa: E731
        return dict(params, temperature=jax.tree.map(clamp, params["temperature"])), extra

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        heads = {k: v for k, v in params.items() if k not in ("backbone", "temperature")}
        text = TextTower(heads, self.context, self._embed_image, self._embed_text)
        return Encoder(params["backbone"], extra["stats"]["backbone"], self.backbone, text)

    def _embed_image(self, params: Tree, features: Array) -> Array:
        return self.networks.bind(params, {}, train=False).image_projection(features)

    def _embed_text(self, params: Tree, tokens: Array) -> Array:
        nets = self.networks.bind(params, {}, train=False)
        return nets.text_projection(nets.text(tokens).pooled)


make = CLIP.make
