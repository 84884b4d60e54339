"""Reconstruction of hidden patches from several layers of an encoder, each by its own decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax

from ssl_jax.augment.masks import random_cells, random_patches
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import OneCrop
from ssl_jax.core.ranges import Count, Integer, Part
from ssl_jax.nets.decoders import as_encoder, mae_decoder, map_decoder
from ssl_jax.nets.features import Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Objective, Probe, View
from ssl_jax.objectives.parts.networks import Bound

Array = jax.Array


class Hidden(NamedTuple):
    """Hidden part of the images of a batch.

    Attributes:
      mask: (B, n, n) float32, 1 where a patch or a cell is hidden.
      keep, restore: of `random_masking`, for an encoder of the visible patches alone.
    """

    mask: Array
    keep: Array | None = None
    restore: Array | None = None


@dataclass(frozen=True)
class Layerwise(Objective):
    """Base class: a decoder on each of several layers of the encoder predicts what is hidden.

    There are two kinds of encoder. A ViT without a mask token sees the visible patches alone, and
    a transformer decodes each layer, as in MAE. A ViT or Swin with one (`backbone.mask_token=True`)
    sees it in the hidden cells, and a linear decoder reads each layer, as in SimMIM.

    Attributes:
      view: crop and augmentation (count 1).
      mask_ratio: share of the patches or cells to hide.
      cell: with a mask token, side of a cell in pixels, a multiple of the backbone's patches.
      layers: indices of the layers: blocks of a ViT, stages of a Swin; -1 is the last.
      decoder_dim, decoder_depth, decoder_heads: sizes of each decoder, without a mask token.

    Raises:
      UserError: cells that do not tile the view, a backbone without these layers.
    """

    family: ClassVar[str] = "masked"
    needs: ClassVar[str] = "a ViT backbone, or a ViT or Swin with a mask token"
    decays: ClassVar[str] = r"(cls|mask)_token$"  # three axes in the releases
    # The loss trains the patches; a class token only as far as they attend to it.
    probe: ClassVar[Probe] = Probe(pool="avg")

    view: OneCrop = View(224, area=(0.2, 1.0), recipe="mae", interpolation="bicubic")
    mask_ratio: Part = 0.75
    cell: Count = 32
    layers: tuple[Integer, ...] = (-1,)
    decoder_dim: Count = 512
    decoder_depth: Count = 8
    decoder_heads: Count = 16

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        if self.sees_all:
            sizes = ("decoder_dim", "decoder_depth", "decoder_heads")
            reason = "with backbone.mask_token=True the decoders are linear"
            return dict.fromkeys(sizes, reason)
        return {"cell": "it needs backbone.mask_token=True"}

    @property
    def sees_all(self) -> bool:
        """Tell whether the encoder sees all positions, with mask tokens in the hidden cells."""
        return bool(getattr(self.backbone.config, "mask_token", False))

    @cached_property
    def taps(self) -> tuple[Stage, ...]:
        """Shapes of the decoded layers."""
        _ = self.patch_grid  # raises without patches
        if self.sees_all and self.view.side % self.cell:
            raise UserError(
                f"objective.cell: {self.cell} px do not tile a view of {self.view.side} px; use a "
                "divisor"
            )
        stages = self.stage_shapes.stages
        count = len(stages)
        numbers = [n + count if n < 0 else n for n in self.layers]
        if not numbers or numbers != sorted({n for n in numbers if 0 <= n < count}):
            raise UserError(
                f"objective.layers: expected rising indices of the backbone's {count} layers, got "
                f"{self.layers}; set others, or use a deeper backbone"
            )
        return tuple(stages[n] for n in numbers)

    def decoder(self, tap: Stage, out_dim: int, scale: float = 1.0, norm: bool = False) -> Net:
        """Build the decoder of a layer, with `out_dim` values per position of a grid that has
        `scale` times the sides of the layer's; with `norm`, inner layers are normed first.
        """
        assert tap.map is not None
        side, _, width = tap.map.shape
        inner = tap.name != self.stage_shapes.stages[-1].name  # the last layer is normed
        options: dict[str, Any] = {
            "grid": (side, side),
            "out_dim": out_dim,
            "scale": scale,
            "norm_input": norm and inner,
        }
        if self.sees_all:
            return map_decoder(width, **options)
        return mae_decoder(
            width,
            dim=self.decoder_dim,
            depth=self.decoder_depth,
            heads=self.decoder_heads,
            cls_token=self.shapes.cls is not None,
            **as_encoder(self.backbone),
            **options,
        )

    def hide(self, keys: Array) -> Hidden:
        """Draw what to hide, with keys (B,)."""
        if self.sees_all:
            return Hidden(random_cells(keys, self.view.side // self.cell, self.mask_ratio))
        side, _ = self.patch_grid
        keep, mask, restore = random_patches(keys, side**2, self.mask_ratio)
        return Hidden(mask.reshape(-1, side, side), keep, restore)

    def encode(self, nets: Bound, images: Array, hidden: Hidden) -> list[Stage]:
        """Compute the layers of the images of which a part is hidden."""
        options = {"mask": hidden.mask} if self.sees_all else {"keep": hidden.keep}
        stages = nets.backbone(images, stages=True, **options).stages
        return [stages[n] for n in self.layers]

    def decode(self, nets: Bound, layers: Sequence[Stage], hidden: Hidden) -> list[Array]:
        """Predict every position, (B, L, values), from each layer by `nets.decoder1`, ..."""
        decoders = [getattr(nets, f"decoder{k + 1}") for k in range(len(layers))]
        if self.sees_all:
            return [decode(layer.map) for decode, layer in zip(decoders, layers, strict=True)]
        return [
            decode(layer.tokens, hidden.restore)
            for decode, layer in zip(decoders, layers, strict=True)
        ]
