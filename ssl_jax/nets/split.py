"""Networks side by side, each of which sees some of an image's channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.features import Features


@dataclass(frozen=True)
class Split(Backbone):
    """One network per group of channels, called "part1", "part2", .. (CMC's L and ab networks). For
    probes, exports and rules on layers they are one backbone: every output is concatenated.

    Attributes:
      part: config of each network.
      channels: channels of each, in the order of the image's; no network sees further ones.
    """

    part: Backbone
    channels: tuple[Count, ...]

    @property
    def title(self) -> str:
        return f"{len(self.channels)}x_{self.part.title}"

    @property
    def draws(self) -> bool:
        return self.part.draws

    @property
    def num_layers(self) -> int:
        return self.part.num_layers

    def layer_ids(self, path: str) -> int | Sequence[int]:
        return self.part.layer_ids(path.partition("/")[2])

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        """Build the networks; see `Backbone.module`.

        Raises:
          UserError: images of fewer channels.
        """
        if channels < sum(self.channels):
            raise UserError(
                f"backbone: parts of {self.channels} channels need images of "
                f"{sum(self.channels)} or more, and these have {channels}"
            )
        return _Parts(self, rngs)


class _Parts(nnx.Module):
    """See `Split`."""

    def __init__(self, config: Split, rngs: nnx.Rngs):
        self.channels = config.channels
        for i, channels in enumerate(config.channels, 1):
            setattr(self, f"part{i}", config.part.module(channels, rngs))

    def __call__(
        self, images: Array, keys: Array | None = None, *, train: bool, stages: bool = False
    ) -> Features:
        """Map images (B, H, W, C) to the features of all parts, concatenated in order."""
        options = {} if keys is None else {"keys": keys}
        outputs, start = [], 0
        for i, channels in enumerate(self.channels, 1):
            own = images[..., start : start + channels]
            outputs.append(getattr(self, f"part{i}")(own, train=train, stages=stages, **options))
            start += channels
        joined: Features = jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *outputs)
        return joined
