"""Additions of a method to its backbone for use after training: embeddings of texts, classifiers,
codes, translated images, a policy. Each is a pytree, a part of `objectives.base.Encoder`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import jax
import jax.numpy as jnp

from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net

Array = jax.Array
Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextTower:
    """Embeddings of images and texts in the joint space of image-text methods. A pytree.

    Attributes:
      params: parameters of both embeddings.
      context: tokens of a caption.
      embed_image: (params, the backbone's "pooled" features (B, D)) -> (B, d).
      embed_text: (params, tokens (B, context) int32) -> (B, d).
    """

    params: Tree
    context: int = field(metadata={"static": True})
    embed_image: Callable[[Tree, Array], Array] = field(metadata={"static": True})
    embed_text: Callable[[Tree, Array], Array] = field(metadata={"static": True})

    def image(self, pooled: Array) -> Array:
        return self.embed_image(self.params, pooled)

    def text(self, tokens: Array) -> Array:
        return self.embed_text(self.params, tokens)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heads:
    """Classification heads of a method: those of its clusters, or of the classes it was trained on.
    A pytree.

    Attributes:
      params: parameters of everything after the backbone.
      score: (params, features (B, D)) -> logits (B, K) of each head; the features are the
        backbone's `pooled`, or those that the online probe reads.
    """

    params: Tree
    score: Callable[[Tree, Array], Sequence[Array]] = field(metadata={"static": True})

    @classmethod
    def of(cls, head: Net, params: Tree) -> Self:
        """Return the one head that a network without batch statistics computes."""
        return cls(params, SingleHead(head))

    def logits(self, pooled: Array) -> Sequence[Array]:
        return self.score(self.params, pooled)


@dataclass(frozen=True)
class SingleHead:
    """The scores of one head; equal for equal networks, so that programs are reused."""

    head: Net

    def __call__(self, params: Tree, pooled: Array) -> Sequence[Array]:
        return [self.head.apply(params, {}, pooled, train=False)[0]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageTokenizer:
    """The head that turns a backbone's map into codes, for methods that predict them. A pytree.

    Attributes:
      params: its parameters.
      head: network from a map (B, h, w, D) to a score for each code (B, h, w, vocabulary); see
        `nets.codes`.
    """

    params: Tree
    head: Net = field(metadata={"static": True})

    def scores(self, features: Features) -> Array:
        """Return the scores (B, h, w, vocabulary) of all codes at each place."""
        scores: Array = self.head.apply(self.params, {}, features.map, train=False)[0]
        return scores

    def codes(self, features: Features) -> Array:
        """Return the code (B, h, w) int32 at each place, the index of the largest score."""
        return jnp.argmax(self.scores(features), axis=-1).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageTranslator:
    """The decoder that turns a backbone's map into an image of another domain. A pytree.

    Attributes:
      params: its parameters.
      net: network from a map (B, h, w, D) to images (B, H, W, C), normalised like the backbone's
        inputs.
    """

    params: Tree
    net: Net = field(metadata={"static": True})

    def images(self, features: Features) -> Array:
        """Decode the images (B, H, W, C) float32."""
        images: Array = self.net.apply(self.params, {}, features.map, train=False)[0]
        return images


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Policy:
    """The policy of a method that acts in an environment. A pytree.

    Attributes:
      params: all its parameters, those of the backbone included.
      choose: (params, normalised observations (B, H, W, C), a key or None) -> actions (B, A).
    """

    params: Tree
    choose: Callable[[Tree, Array, Array | None], Array] = field(metadata={"static": True})

    def actions(self, observations: Array, key: Array | None = None) -> Array:
        """Return the mean actions (B, A), each number in [-1, 1]; with a key draw them."""
        return self.choose(self.params, observations, key)
