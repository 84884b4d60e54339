"""Three basic blocks for images of 16 pixels, which train on a CPU."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Self

from flax import nnx

from ssl_jax.core.ranges import Count
from ssl_jax.nets.backbone import Backbone, scaled_width
from ssl_jax.nets.backbones import resnet


@dataclass(frozen=True)
class Config(Backbone):
    """Three basic blocks of 1, 2 and 4 times `width`: 77,000 parameters at 16, for 16 px.

    So short a net trains as well, and starts better, without zero-initialised branches.

    Attributes:
      width: width of the stem and of the first block.
      stem, neck: see `resnet.Config`.
    """

    narrow: ClassVar[Mapping[str, Any]] = {"width": 8}
    layout: ClassVar[str] = "resnet"

    width: Count = 16
    _: KW_ONLY
    stem: resnet.Stem = "small"
    neck: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.explicit()  # checks the stem

    @property
    def title(self) -> str:
        return self.explicit().title

    @property
    def num_layers(self) -> int:
        return self.explicit().num_layers

    def layer_ids(self, path: str) -> int:
        return self.explicit().layer_ids(path)

    def explicit(self) -> resnet.Config:
        return resnet.Config(
            8,
            stem=self.stem,
            num_filters=self.width,
            zero_init_residual=False,
            neck=self.neck,
            dtype=self.dtype,
        )

    def scaled(self, factor: float) -> Self:
        neck = tuple(scaled_width(width, factor) for width in self.neck)
        return replace(self, width=scaled_width(self.width, factor), neck=neck)

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return self.explicit().module(channels, rngs)


make = Config.make
