"""What an objective asks of the input pipeline: views, labels, text, frames, further streams."""

from dataclasses import dataclass
from typing import Literal

from ssl_jax.core.chain import Recipe
from ssl_jax.core.errors import UserError


@dataclass(frozen=True)
class View:
    """`count` random crops of one size of each image, augmented on the device by a chain.

    Attributes:
      size: side of the square crop in pixels.
      count: crops an image.
      area: range of the crop's share of the image area; (1, 1) is the whole image, resized.
      recipe: the chain: a name in `augment.recipes`, or a chain in full. What a config's mapping
        leaves out has the default of `core.chain.Recipe`: that operation is not done.
      strength: multiplies the recipe's random distortions; 1 is as published.
      interpolation: between pixels, where a crop is resized.
      crop: how a box is drawn: "torchvision" tries ten times and then takes the centre, "one_draw"
        (BYOL's) cuts the only draw down to the image.
    """

    size: int
    count: int = 1
    area: tuple[float, float] = (0.2, 1.0)
    recipe: str | Recipe = "simclr"
    strength: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Literal["torchvision", "one_draw"] = "torchvision"

    @property
    def whole(self) -> bool:
        """Whether the view is of the whole image."""
        return self.area == (1, 1)

    def __post_init__(self) -> None:
        low, high = self.area
        if self.size < 1 or self.count < 1 or not 0 < low <= high <= 1 or self.strength < 0:
            raise UserError(
                f"view: size {self.size} and count {self.count} must be positive, strength "
                f"{self.strength} not negative, area {self.area} a range in (0, 1]"
            )


@dataclass(frozen=True)
class Inputs:
    """The batch that an objective's loss receives.

    `batch["views"]` is a tuple with one entry a `View`, (B, count, H, W, C) uint8 from the host and
    float32 after the device-side augmentation; `batch["index"]` (B,) int32, an example's stable
    position in its data set, is always there; `batch["label"]` (B,) int32 with `label`;
    `batch["text"]` (B, text) int32 with `text`; `batch["frames"]` (B, frames, H, W, C) uint8 with
    `frames`; `batch[name]` a whole sub-batch for each of `streams`.
    """

    views: tuple[View, ...] = ()
    label: bool = False
    text: int = 0
    frames: int = 0
    streams: tuple[tuple[str, "Inputs"], ...] = ()
