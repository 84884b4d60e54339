"""A chain of augmentation as plain values, so that a config can hold one and a run can keep it."""

import math
from dataclasses import dataclass
from typing import Literal

from ssl_jax.core.errors import UserError

Kind = Literal["torchvision", "simclr", "byol"]  # whose colour jitter
Padding = Literal["zero", "edge"]
Strengths = tuple[float, float, float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Affine:
    """Ranges of a random affine map; each draw is uniform in [-x, x].

    Attributes:
      rotation: radians.
      log_scale: of the height and the width, each drawn apart.
      shear: pixels a pixel.
      shift: share of the image's side.
      padding: what lies outside of the image.
    """

    rotation: float = 0.0
    log_scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    padding: Padding = "zero"

    def __post_init__(self) -> None:
        _not_negative(self, "rotation", "log_scale", "shear", "shift")


@dataclass(frozen=True)
class Recipe:
    """A chain: flip, affine, RandAugment, colour jitter, grey, blur, solarize, noise, normalise.

    Attributes:
      flip: probability of mirroring.
      affine: a random affine map, or None.
      jitter: strengths of brightness, contrast, saturation and hue, as in `color_jitter`.
      jitter_p, gray_p, blur_p, solarize_p: probabilities.
      jitter_kind: whose colour jitter.
      gray_first: grey before the colour jitter, not after it.
      noise: standard deviation of Gaussian noise, before the normalisation and not clipped.
      rand_augment: magnitude of RandAugment, of 10; 0 for none.
      mean, std: of each channel of images in [0, 1], or one number for all of them.
    """

    flip: float = 0.0
    affine: Affine | None = None
    jitter: Strengths = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.8
    jitter_kind: Kind = "torchvision"
    gray_p: float = 0.0
    blur_p: float = 0.0
    solarize_p: float = 0.0
    gray_first: bool = False
    noise: float = 0.0
    rand_augment: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_p", "gray_p", "blur_p", "solarize_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"recipe.{name}: {getattr(self, name)} is no probability, a number from 0 to 1"
                )
        _not_negative(self, "noise", "rand_augment")
        if not all(0 <= x < math.inf for x in self.jitter):
            raise UserError(f"recipe.jitter: {self.jitter} must not be negative")
        if self.jitter[3] > 0.5:
            raise UserError(f"recipe.jitter: a hue of {self.jitter[3]} is beyond 0.5, all colours")
        if len(self.mean) != len(self.std) or not self.mean:
            raise UserError(
                f"recipe: mean has {len(self.mean)} values and std {len(self.std)}; give each one "
                "value per channel, or one for all"
            )
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or min(self.std) <= 0:
            raise UserError(f"recipe.std: {self.std} must be positive, and mean and std finite")


def _not_negative(section: Affine | Recipe, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(section, name) < math.inf:
            raise UserError(f"recipe: {name} = {getattr(section, name)} must not be negative")
