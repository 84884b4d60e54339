"""Vision transformers of clips: the patches are tubelets over several frames (V-JEPA, Bardes et al.
2024, arXiv:2404.08471; the embedding is that of ViViT, arXiv:2103.15691).
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbones import vit
from ssl_jax.nets.features import Features
from ssl_jax.nets.positions import ClipGrid, Grid, resize_grid, sincos_clip


@dataclass(frozen=True)
class Config(vit.Config):
    """A vision transformer of clips. Its input is clips (B, frames, H, W, C), or images
    (B, H, W, C), each of which is repeated to a clip in which nothing moves, as V-JEPA evaluates
    images. Outputs: `VideoViT.__call__`; inputs besides the clips: `keep`, `mask`,
    `visible`, `stages`.

    Attributes:
      frames: frames of a clip.
      tubelet: frames of a patch.
      position: "learned", "none", or "sincos", a fixed table over frame, row and column.

    Raises:
      UserError: a tubelet that does not divide the frames, relative positions, and as for `vit`.
    """

    narrow: ClassVar[Mapping[str, Any]] = {**vit.Config.narrow, "frames": 4}
    layout: ClassVar[str] = ""
    attention: ClassVar[bool] = False

    _: KW_ONLY
    frames: Count = 16
    tubelet: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames % self.tubelet:
            raise UserError(
                f"backbone.tubelet: {self.tubelet} frames do not divide a clip of {self.frames}; "
                "use one of its divisors"
            )
        if self.position in ("relative", "sincos_mocov3"):
            raise UserError(
                f"backbone.position: expected 'learned', 'sincos' or 'none' for clips, got "
                f"{self.position!r}"
            )

    @property
    def times(self) -> int:
        """Number of tubelets of a clip along the time."""
        return self.frames // self.tubelet

    @property
    def window(self) -> tuple[int, ...]:
        return (self.tubelet, *super().window)

    @property
    def positions(self) -> int:
        return self.times * super().positions

    @property
    def title(self) -> str:
        return f"{super().title}_video_{self.frames}"

    def module(self, channels: int, rngs: nnx.Rngs) -> "VideoViT":
        return VideoViT(self, channels, rngs)


class VideoViT(vit.ViT):
    """See `Config` for the options and `__call__` for the outputs."""

    def __init__(self, config: Config, channels: int, rngs: nnx.Rngs):
        super().__init__(config, channels, rngs)
        self.frames, self.times = config.frames, config.times

    def __call__(  # type: ignore[override]  # no attention maps
        self,
        images: Array,
        keep: Array | None = None,
        mask: Array | None = None,
        keys: Array | None = None,
        visible: Array | None = None,
        *,
        train: bool,
        stages: bool = False,
    ) -> Features:
        """Map clips (B, frames, H, W, C), or images, to features of the N tubelets, ordered by
        frame, row, column, or of those in `keep` (B, K). The maps (B, h, w, D) are means over the
        time. Other arguments and outputs: `ViT.__call__`.

        Raises:
          UserError: clips of another length, and as for `ViT`.
        """
        return super().__call__(images, keep, mask, keys, visible, train=train, stages=stages)

    def _embed(self, images: Array) -> tuple[Array, Grid]:
        if images.ndim == 4:
            images = jnp.repeat(images[:, None], self.frames, axis=1)
        if images.shape[1] != self.frames:
            raise UserError(
                f"backbone.frames: expected clips of {self.frames} frames, got {images.shape[1]}; "
                f"set backbone.frames={images.shape[1]}"
            )
        rows, columns = vit.patch_grid((images.shape[2], images.shape[3]), self.patch)
        kernel, bias = self.patch_embed.kernel[...], self.patch_embed.bias
        frames, *sides = kernel.shape[:3]
        # The convolution, whose windows do not overlap, as a matrix product: the gradient of a
        # convolution over three axes takes several times as long on CPUs.
        count, channels = images.shape[0], images.shape[-1]
        shape = (count, self.times, frames, rows, sides[0], columns, sides[1], channels)
        cells = jnp.reshape(images, shape).transpose(0, 1, 3, 5, 2, 4, 6, 7)
        pixels = frames * sides[0] * sides[1] * channels
        cells = jnp.reshape(cells, (count, self.times * rows * columns, pixels))
        dtype = self.patch_embed.dtype or jnp.result_type(cells, kernel)
        x = cells.astype(dtype) @ jnp.reshape(kernel, (pixels, -1)).astype(dtype)
        return (x if bias is None else x + bias[...].astype(dtype)), (rows, columns)

    def _map(self, patches: Array, grid: Grid) -> Array:
        each = jnp.reshape(patches, (patches.shape[0], self.times, *grid, patches.shape[-1]))
        return each.mean(1)

    def _positions(self, grid: Grid) -> tuple[Array, Array]:
        """Return the positions of the class token and of the tubelets; those of every frame are
        resized as an image's.
        """
        if self.position == "none":
            return super()._positions(grid)
        dim, first = self.patch_embed.out_features, int(self.cls_token is not None)
        cls = jnp.zeros((1, first, dim))
        if self.pos_embed is None:
            whole: ClipGrid = (self.times, *self.grid)
            table = jnp.asarray(sincos_clip(dim, whole))
        else:
            cls, table = self.pos_embed[...][:, :first], self.pos_embed[...][0, first:]
        frames = jnp.reshape(table, (self.times, 1, -1, dim))
        resize = lambda frame: resize_grid(frame, self.grid, grid, *self.interpolate)  # noqa: E731
        return cls, jnp.reshape(jax.vmap(resize)(frames), (1, -1, dim))


make = Config.make
