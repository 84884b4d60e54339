"""Motion segmentation: learning features by watching objects move (Pathak et al. 2017,
1612.06370).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.losses.masks import mask_logistic
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.base import Aux, Inputs, Objective, Picture, View
from ssl_jax.objectives.parts.networks import Bound, Networks
from ssl_jax.objectives.parts.pictures import ROWS
from ssl_jax.objectives.parts.views import fold

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class MotionSegmentation(Objective):
    """The network sees one frame, in which nothing moves, and predicts the mask of what moved in
    its clip. `ssl-jax prepare --motion` makes frames and masks from clips.

    The head is that of the released network (motionseg/DeepMaskAlexNet.lua): a 1x1 convolution,
    then two linear layers of the whole map, without anything in between, to all pixels of the mask
    at once. The released code has no loss: here it is logistic, averaged over the pixels of the
    batch that the mask knows.

    Attributes:
      view: crop and augmentation (count 1). Crops move what moved away from the centre, where most
        objects are filmed.
      grid: side of the predicted mask.
      width: channels of the 1x1 convolution.
      rank: width between the two linear layers.
    """

    family: ClassVar[str] = "pretext"
    needs: ClassVar[str] = "images with masks of what moves"

    view: View = View(227, area=(0.2, 1.0), recipe="mae")
    grid: Count = 56
    width: Count = 128
    rank: Count = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid > min(self.view.sides):
            raise UserError(
                f"objective.grid: a mask of {self.grid} px is larger than the view of "
                f"{self.view.sides}; use at most {min(self.view.sides)}"
            )

    def inputs(self) -> Inputs:
        return Inputs((self.view,), masks=True)

    @cached_property
    def networks(self) -> Networks:
        shape = self.shapes.map
        if shape is None:
            raise UserError("objective: this backbone has no map; use a ResNet, ViT or Swin")
        rows, columns, channels = shape.shape
        return self.backbone_and(
            reduce=mlp_head(channels, (self.width,)),
            factor=mlp_head(rows * columns * self.width, (self.rank,)),
            mask=mlp_head(self.rank, (self.grid**2,)),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        images, masks = fold(batch["views"][0]), self.targets(fold(batch["masks"][0]))
        nets = self.networks.bind(params, extra["stats"])
        logits = self.predict(nets, images)
        metrics = {"iou": intersection_over_union(logits > 0, masks)}
        return mask_logistic(logits, masks), Aux({"stats": nets.stats}, metrics=metrics)

    def targets(self, masks: Array) -> Array:
        """Return the masks (B, h, w) at the grid: of each cell the pixel in its centre."""
        height, width = masks.shape[1:]
        centres = [(2 * np.arange(self.grid) + 1) * n // (2 * self.grid) for n in (height, width)]
        return masks[:, centres[0][:, None], centres[1]]

    def predict(self, nets: Bound, images: Array) -> Array:
        """Compute the logits (B, grid, grid) of the masks of images (B, H, W, C)."""
        reduced = jax.nn.relu(nets.reduce(nets.backbone(images).map))
        logits = nets.mask(nets.factor(reduced.reshape(len(images), -1)))
        return logits.reshape(-1, self.grid, self.grid)

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        images = images[:ROWS]
        nets = self.networks.bind(params, extra["stats"], train=False)
        moves = jax.nn.sigmoid(self.predict(nets, images))[..., None]
        moves = jax.image.resize(moves, (*images.shape[:3], 1), "bilinear")
        # What does not move fades to the images' mean, which normalisation makes 0.
        faded = jnp.where(moves > 0.5, images, 0.15 * images)
        shade = jnp.broadcast_to(4 * moves - 2, images.shape)
        caption = (
            "The network sees one still image and predicts what in it would move: bright in the "
            "second column, and cut out in the third."
        )
        columns = ("image", "probability", "predicted to move")
        return {"What moves": Picture(jnp.stack([images, shade, faded], 1), caption, columns)}


def intersection_over_union(predicted: Array, masks: Array) -> Array:
    """Return the ratio over all pixels of the batch that are 0 or 1 in the masks; a scalar.

    Args:
      predicted: (B, h, w) bool.
      masks: (B, h, w) integers.
    """
    valid = (masks == 0) | (masks == 1)
    both = jnp.sum(predicted & (masks == 1))
    either = jnp.sum(valid & (predicted | (masks == 1)))
    return both / jnp.maximum(either, 1)


make = MotionSegmentation.make
