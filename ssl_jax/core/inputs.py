"""Inputs that an objective requests from the pipeline: views, labels, text, frames, streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssl_jax.core.chain import Recipe
from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Share


@dataclass(frozen=True)
class View:
    """Random crops of each image, `count` of one size, augmented on the device by a chain.

    Attributes:
      size: side of the square crop in pixels.
      count: crops per image.
      area: range of the crop's share of the image area; (1, 1) is the whole image, resized.
      recipe: the chain: a name in `augment.recipes`, or a complete chain. Fields that a config's
        mapping leaves out have the defaults of `core.chain.Recipe`, without that operation.
      strength: factor of the chain's random distortions; 1 is as published.
      interpolation: interpolation when a crop is resized.
      crop: sampling of boxes: "torchvision" tries ten times and then takes the centre, "one_draw"
        (BYOL's) clips a single draw to the image.
    """

    size: Count
    count: Count = 1
    area: tuple[Share, Share] = (0.2, 1.0)
    recipe: str | Recipe = "simclr"
    strength: NonNegative = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Literal["torchvision", "one_draw"] = "torchvision"

    @property
    def whole(self) -> bool:
        """True if the view is the whole image."""
        return self.area == (1, 1)

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {"crop": "the view is the whole image, area (1, 1)"} if self.whole else {}

    def __post_init__(self) -> None:
        check(self, "view")
        if self.area[0] > self.area[1]:
            raise UserError(f"view.area: {self.area} is reversed; put the smaller share first")


@dataclass(frozen=True)
class Inputs:
    """Content of the batch that an objective's loss receives.

    `batch["views"]` is a tuple with one entry per `View`, (B, count, H, W, C) uint8 from the host
    and float32 after the device-side augmentation; `batch["index"]` (B,) int32, an example's stable
    position in its data set, is always present; `batch["label"]` is (B,) int32 with `label`;
    `batch["text"]` (B, text) int32 with `text`; `batch["frames"]` (B, frames, H, W, C) uint8 with
    `frames`; `batch[name]` is a complete sub-batch for each of `streams`.
    """

    views: tuple[View, ...] = ()
    label: bool = False
    text: int = 0
    frames: int = 0
    streams: tuple[tuple[str, "Inputs"], ...] = ()
