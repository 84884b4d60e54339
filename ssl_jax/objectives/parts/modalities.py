"""Modalities of a clip, each with its own network: RGB, grey, flow and sound; and the versions of a
clip that pretext tasks ask about (evolving losses, Piergiovanni et al. 2020, arXiv:2002.12177).

A modality's clip is (B, 2 n, ...): n frames that the network sees, the past, and the n after them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.augment import photometric, recipes
from ssl_jax.augment.patches import tubelets
from ssl_jax.augment.sound import spectrogram
from ssl_jax.core import rng
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import View
from ssl_jax.objectives.parts.views import augmented_frames, fold, unfold

Array = jax.Array
Modality = Literal["rgb", "grey", "flow", "sound"]
RGB = "rgb"  # the modality whose network is the backbone
FLOW_UNIT = 1 / 16  # motion that becomes 1, as a share of the side of a frame
SHOWN = ("past", "played", "mixed", "paired")  # versions that the networks see


class Versions(NamedTuple):
    """Versions (B, n, ...) of a clip, and the answers (B,) to the questions about them: 1 or 0.

    Attributes:
      past, future: the first and the second half.
      played: the past, forwards (1) or backwards (0).
      mixed: the past, its frames in order (1) or in another one (0).
      paired: the past (1) or frames of another time or clip (0).
    """

    past: Array
    future: Array
    played: Array
    mixed: Array
    paired: Array
    forwards: Array
    ordered: Array
    aligned: Array


class Encoded(NamedTuple):
    """Features of the versions of one modality.

    Attributes:
      tokens: (B, N, D), of the past.
      past, played, mixed, paired: (B, D), the network's output for each.
      layers: (B, L, D), means over the places of the stages that are distilled.
    """

    tokens: Array
    past: Array
    played: Array
    mixed: Array
    paired: Array
    layers: Array


@dataclass(frozen=True)
class Modalities:
    """The modalities of a method.

    Attributes:
      names: their names.
      backbone: the network of RGB.
      view: size and chain of the frames.
      samples: samples of sound per frame.
      other_clips: frames that are not aligned are the past of the batch's next clip, and not the
        future of the same clip.
    """

    names: tuple[Modality, ...]
    backbone: Net
    view: View
    samples: int
    other_clips: bool

    @cached_property
    def encoders(self) -> Mapping[str, Net]:
        """The network of each modality; a spectrogram is a clip of one frame."""
        like = self.backbone.like
        made = {RGB: self.backbone, "grey": like(channels=1), "flow": like(channels=2)}
        made["sound"] = like(channels=1, frames=1, tubelet=1)
        return {name: made[name] for name in self.names}

    def clips(self, batch: Mapping[str, Any], key: Array) -> dict[str, Array]:
        """Return the clips (B, 2 n, ...) of each modality: frames (.., H, W, C), or sound (.., s),
        the samples of each frame.
        """
        rgb = augmented_frames(self.view, batch, key)
        made = {RGB: rgb}
        if "grey" in self.names:
            luma = recipes.unit(self.view, rgb) @ jnp.array(photometric.LUMA, rgb.dtype)
            made["grey"] = recipes.normalize(self.view, luma[..., None])
        if "flow" in self.names:
            made["flow"] = batch["flow"] / (FLOW_UNIT * self.view.side)
        if "sound" in self.names:
            made["sound"] = batch["sound"].reshape(*rgb.shape[:2], self.samples)
        return {name: made[name] for name in self.names}

    def versions(self, name: str, clip: Array, index: Array, key: Array) -> Versions:
        """Draw the versions of a modality's clips (B, 2 n, ...), as its network sees them."""
        count = clip.shape[1] // 2
        past, future = clip[:, :count], clip[:, count:]
        keys = rng.per_example(rng.named(key, name), index)
        answers, orders = jax.vmap(lambda key: _draw(key, count))(keys)

        def either(question: int, no: Array) -> Array:
            answer = answers[:, question].reshape(-1, *[1] * (past.ndim - 1))
            return self.shown(name, jnp.where(answer, past, no))

        mixed = jax.vmap(lambda frames, order: frames[order])(past, orders)
        wrong = jnp.roll(past, 1, axis=0) if self.other_clips else future
        return Versions(
            self.shown(name, past),
            self.shown(name, future),
            either(0, backwards(name, past)),
            either(1, mixed),
            either(2, wrong),
            *jnp.moveaxis(answers.astype(jnp.float32), 1, 0),
        )

    def shown(self, name: str, clip: Array) -> Array:
        """Return a modality's clip (B, n, ...) as its network sees it: sound as the spectrogram."""
        if name != "sound":
            return clip
        side = self.view.side
        return spectrogram(clip.reshape(len(clip), -1), side, side)[:, None]

    def encode(self, network: Any, versions: Versions, stages: tuple[int, ...]) -> Encoded:
        """Encode all versions of a modality by its network, in one pass."""
        rows = fold(jnp.stack([getattr(versions, name) for name in SHOWN], axis=1))
        features = network(rows, stages=True)

        def past(x: Array) -> Array:
            return unfold(x, len(SHOWN))[:, 0]

        layers = jnp.stack([past(features.read(number, "avg")) for number in stages], axis=1)
        pooled = jnp.moveaxis(unfold(features.pooled, len(SHOWN)), 1, 0)
        first, played, mixed, paired = pooled
        return Encoded(past(features.patches), first, played, mixed, paired, layers)

    def cells(self, name: str, clip: Array) -> Array:
        """Cut a modality's clip into the tubelets of its network's tokens, (B, N, P)."""
        config = self.encoders[name].config
        return tubelets(clip, config.tubelet, config.patch)


def backwards(name: str, clip: Array) -> Array:
    """Play a modality's clip (B, n, ...) backwards. What moved to the right moves to the left; the
    flow of a frame stays with it, although it is that to the next one.
    """
    if name == "flow":
        return -clip[:, ::-1]
    return clip[:, ::-1, ::-1] if name == "sound" else clip[:, ::-1]


def _draw(key: Array, count: int) -> tuple[Array, Array]:
    """Draw three answers (3,) and an order (count,) of the frames other than the right one."""
    order = jax.random.permutation(rng.named(key, "order"), count)
    right = jnp.all(order == jnp.arange(count))
    order = jnp.where(right, jnp.roll(order, 1), order)
    return jax.random.bernoulli(rng.named(key, "answers"), shape=(3,)), order
