"""Networks and encoder of methods with a joint space of images and captions (CLIP, SigLIP)."""

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
TEMPERATURE = "temperature"


@dataclass(frozen=True)
class ImageText(Objective):
    """An image tower and a text tower, each with a linear projection to the joint space.

    A method defines `contrast`, and `scalars` if it learns any besides the towers.

    Attributes:
      view: crop and augmentation of the image (count 1); the published one is minimal.
      context: tokens of a caption, including start and end.
      dim: width of the joint space.
      text_dim, text_depth, text_heads: sizes of the text transformer.
      text_remat: what its backward pass recomputes; see `nets.blocks`.
      temperature: initial temperature.
      similarity: whether the loss holds the similarities of all pairs; see
        `losses.large_batch.similarity`.

    Raises:
      UserError: no room for a token in `context`.
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
    similarity: Similarity = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def scalars(self) -> dict[str, float]:
        """Return the initial values of the learned scalars, which are float32 and do not decay: a
        "scale" is the logarithm of an inverse temperature. Other names than "scale" and "bias"
        would decay (`optim.factory`).
        """
        raise NotImplementedError

    def contrast(self, image: Array, text: Array, scalars: Tree) -> tuple[Array, dict[str, Array]]:
        """Compute the loss of each image, (B,), and metrics.

        Args:
          image, text: (B, dim), row i of `image` belongs to row i of `text`.
          scalars: current values of `scalars`.
        """
        raise NotImplementedError

    def init(self, key: Array) -> tuple[Tree, Tree]:
        image, text = (self.networks.only(*names) for names in (IMAGE, TEXT))
        params, stats = image.init(rng.named(key, "image"))
        text_params, text_stats = text.init(rng.named(key, "text"))
        scalars = {k: jnp.full((), value, jnp.float32) for k, value in self.scalars().items()}
        return params | text_params | {TEMPERATURE: scalars}, {"stats": stats | text_stats}

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, texts = batch["views"][0][:, 0], batch["text"]
        nets = self.networks.bind(params, extra["stats"])
        image = nets.image_projection(nets.backbone(images).pooled)
        text = nets.text_projection(nets.text(texts).pooled)
        rows, metrics = self.contrast(image, text, params[TEMPERATURE])
        return jnp.mean(rows), Aux({"stats": nets.stats}, metrics=metrics)

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        heads = {k: v for k, v in params.items() if k not in ("backbone", TEMPERATURE)}
        text = TextTower(heads, self.context, self._embed_image, self._embed_text)
        return Encoder(params["backbone"], extra["stats"]["backbone"], self.backbone, text)

    def _embed_image(self, params: Tree, features: Array) -> Array:
        return self.networks.bind(params, {}, train=False).image_projection(features)

    def _embed_text(self, params: Tree, tokens: Array) -> Array:
        nets = self.networks.bind(params, {}, train=False)
        return nets.text_projection(nets.text(tokens).pooled)
