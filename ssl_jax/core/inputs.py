"""Inputs that an objective requests from the pipeline, and the one description of its batches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from ssl_jax.core.chain import Chain
from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Inside, NonNegative, Range, Several, Share

Size = Count | tuple[Count, Count]
Sampling = Literal["torchvision", "one_draw", "same_aspect"]


def sides(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size in pixels; one number is the side of a square."""
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class View:
    """Random crops of each image, `count` of one size, augmented on the device by a chain.

    Attributes:
      size: side of the square crop in pixels, or (height, width). Boxes have the same range of
        aspect ratios for either, so a crop that is not square is stretched more.
      count: crops per image.
      area: range of the crop's share of the image area; (1, 1) is the whole image, resized.
      recipe: the chain: a name in `augment.recipes`, or a complete chain. Fields that a config's
        mapping leaves out have the defaults of `core.chain.Transform`, without that operation.
      strength: factor of the chain's random distortions; 1 is as published.
      interpolation: interpolation when a crop is resized.
      crop: sampling of boxes: "torchvision" tries ten times and then takes the centre, "one_draw"
        (BYOL's) clips a single draw to the image, "same_aspect" keeps the image's aspect ratio: the
        share 0.8 is a crop of 256 from an image resized to 286 (CycleGAN, CUT).
    """

    size: Size
    count: Count = 1
    area: tuple[Share, Share] = (0.2, 1.0)
    recipe: Chain = "simclr"
    strength: NonNegative = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Sampling = "torchvision"

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return sides(self.size)

    @property
    def side(self) -> int:
        """Side of a square view in pixels.

        Raises:
          UserError: the view is not square.
        """
        self.check_square()
        return self.sides[0]

    def check_square(self) -> None:
        """Check that the view is square, for what works with squares only.

        Raises:
          UserError: it is not.
        """
        height, width = self.sides
        if height != width:
            raise UserError(
                f"view.size: expected a square view, got {height} x {width}; set one number"
            )

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


# Views of methods that use a certain number of crops per image. A crop that the loss ignores, or
# pairs with another image's, would be a setting that is recorded and not applied.
OneCrop = Annotated[View, Inside("count", Annotated[int, Range(1, 1)])]
TwoCrops = Annotated[View, Inside("count", Annotated[int, Range(2, 2)])]
SeveralCrops = Annotated[View, Inside("count", Several)]


@dataclass(frozen=True)
class Window:
    """The part of the data set that is shown before the next part (PIC, arXiv:2006.14618): each
    pass is over the `size` images from a start on, which then moves on by `stride`.

    Attributes:
      size: images of a pass.
      stride: images by which the start moves after each pass.
      reshuffle: shuffle the data set anew before a pass that goes beyond its end.
    """

    size: Count
    stride: Count
    reshuffle: bool = True


@dataclass(frozen=True)
class ArrayShape:
    """Shape and type of one array of a batch. Unlike a tuple, it is a leaf to `jax.tree`."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class Inputs:
    """Content of the batch that an objective's loss receives; `shapes` describes its arrays.

    A batch of B examples is a dict. Each view g has `count` crops of h x w pixels per image; the
    lists with one entry per view are tuples.

    | key | if requested by | array of the host | and in the loss |
    |---|---|---|---|
    | `index` | always | (B,) int32: the example's stable position in its data set | |
    | `views[g]` | `views` | (B, count, h, w, C) uint8 | float32, augmented and normalised |
    | `placement[g]` | `placement` | (B, count, 2, 3) float32 | composed with flip and affine map |
    | `masks[g]` | `masks` | (B, count, h, w) uint8 | moved with the view's pixels |
    | `matched` | `matched`, with masks | made on the device | (B, h, w, C) float32, see below |
    | `label` | `label` | (B,) int32, -1 for none | |
    | `labels` | `labels`, their largest number | (B, labels) int32, -1 after the last | |
    | `text` | `text`, tokens | (B, text) int32 | |
    | `frames` | `frames`, per clip | (B, frames, h, w, C) uint8, sides of the first view | |
    | `flow` | `flow` | (B, frames, h, w, 2) float32 | |
    | `sound` | `sound`, samples | (B, sound) int16, mono, from the first frame on | float32 |
    | `action` | `actions`, its numbers | (B, actions) float32 in [-1, 1] | |
    | `reward`, `continues` | `actions` | (B,) float32 each | |
    | NAME | `streams` | a complete batch of the data set NAME | |

    A placement is the affine map (A | t) from a position p in the view to A p + t in its image.
    Positions are (y, x) in units of the sides: (0, 0) is the outer corner at the top left, (1, 1)
    that at the bottom right, and pixel (i, j) of h x w has its centre at ((i + 0.5) / h,
    (j + 0.5) / w). Where the affine map of a chain reads beyond the crop, the view shows padding,
    and its mask is 0 or the edge's. The flow of a pixel is its motion (y, x) from its frame to the
    next, in pixels of the crop. The sound in the loss is in [-1, 1). `window` changes the order of
    the examples; by default each epoch is a pass over all of them. With `matched` the first crop
    of the first view keeps its background, and `matched` shows another image's foreground on it.
    With `actions` an example is an agent step in an environment: its first view shows the
    observation before the action, its second the one after it, as stacks of frames along C.
    `continues` is 0 where the episode ended for good.
    """

    views: tuple[View, ...] = ()
    label: bool = False
    labels: int = 0
    text: int = 0
    frames: int = 0
    streams: tuple[tuple[str, "Inputs"], ...] = ()
    placement: bool = False
    masks: bool = False
    matched: bool = False
    flow: bool = False
    sound: int = 0
    window: Window | None = None
    actions: int = 0

    def shapes(self, rows: int, channels: int) -> dict[str, Any]:
        """Describe the batches of `rows` examples that the host makes: a tree of `ArrayShape`."""

        def array(dtype: type, *shape: int) -> ArrayShape:
            return ArrayShape((rows, *shape), np.dtype(dtype))

        def per_view(dtype: type, *shape: int, sides: bool = False) -> tuple[ArrayShape, ...]:
            every = ((v.count, *(v.sides if sides else ()), *shape) for v in self.views)
            return tuple(array(dtype, *view) for view in every)

        out: dict[str, Any] = {
            "views": per_view(np.uint8, channels, sides=True),
            "index": array(np.int32),
        }
        if self.placement:
            out["placement"] = per_view(np.float32, 2, 3)
        if self.masks:
            out["masks"] = per_view(np.uint8, sides=True)
        if self.label:
            out["label"] = array(np.int32)
        if self.labels:
            out["labels"] = array(np.int32, self.labels)
        if self.text:
            out["text"] = array(np.int32, self.text)
        if self.frames:
            out["frames"] = array(np.uint8, self.frames, *self.views[0].sides, channels)
        if self.flow:
            out["flow"] = array(np.float32, self.frames, *self.views[0].sides, 2)
        if self.sound:
            out["sound"] = array(np.int16, self.sound)
        if self.actions:
            out["action"] = array(np.float32, self.actions)
            out |= {name: array(np.float32) for name in ("reward", "continues")}
        return out | {name: inputs.shapes(rows, channels) for name, inputs in self.streams}
