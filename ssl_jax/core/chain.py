"""A chain of augmentations as plain values, so that configs and runs can store it."""

from dataclasses import dataclass
from typing import Literal

from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Finite, NonNegative, Positive, Probability

Kind = Literal[
    "torchvision", "simclr", "byol"
]  # the library or code that defines the colour jitter
Padding = Literal["zero", "edge"]
Space = Literal["rgb", "lab", "ycbcr", "hue_chroma"]
Strengths = tuple[NonNegative, NonNegative, NonNegative, NonNegative]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Affine:
    """Ranges of a random affine map; each draw is uniform in [-x, x].

    Attributes:
      rotation: radians.
      log_scale: log of the scale of height and width, drawn independently.
      shear: pixels per pixel.
      shift: share of the image's side.
      padding: values outside of the image.
    """

    rotation: NonNegative = 0.0
    log_scale: NonNegative = 0.0
    shear: NonNegative = 0.0
    shift: NonNegative = 0.0
    padding: Padding = "zero"

    def __post_init__(self) -> None:
        check(self, "recipe.affine")


@dataclass(frozen=True)
class Background:
    """Replacement of an image's background: what lies outside of its mask (2103.12719).

    Attributes:
      fill: "gray" for one random level (the paper's BG_RM), "image" for the background of another
        image of the batch (BG_Random).
      probability: probability of each crop.
      area: range of the foreground's share of a crop; other crops keep their background.
    """

    fill: Literal["gray", "image"] = "image"
    probability: Probability = 0.2
    area: tuple[Probability, Probability] = (0.05, 0.95)

    def __post_init__(self) -> None:
        check(self, "recipe.background")
        if self.area[0] > self.area[1]:
            raise UserError(
                f"recipe.background.area: {self.area} is reversed; put the smaller share first"
            )


@dataclass(frozen=True)
class Transform:
    """A chain: background, flip, affine, RandAugment, colour jitter, grey, blur, solarize, noise,
    colour space, normalise.

    Attributes:
      flip: probability of mirroring.
      affine: a random affine map, or None.
      jitter: strengths of brightness, contrast, saturation and hue, as in `color_jitter`.
      jitter_p, gray_p, blur_p, solarize_p: probabilities.
      jitter_kind: which code's colour jitter.
      gray_first: grey before the colour jitter, not after it.
      noise: standard deviation of Gaussian noise, added before the normalisation, not clipped.
      rand_augment: magnitude of RandAugment, up to 10; 0 for none.
      space: colour space to which images are converted before the normalisation; see
        `augment.color.from_rgb`.
      mean, std: statistics of each channel of images in [0, 1], or one number for all channels; in
        another space in its units.
      background: replacement of the background in training, or None; it needs masks.
    """

    flip: Probability = 0.0
    affine: Affine | None = None
    jitter: Strengths = (0.0, 0.0, 0.0, 0.0)
    jitter_p: Probability = 0.8
    jitter_kind: Kind = "torchvision"
    gray_p: Probability = 0.0
    blur_p: Probability = 0.0
    solarize_p: Probability = 0.0
    gray_first: bool = False
    noise: NonNegative = 0.0
    rand_augment: NonNegative = 0.0
    space: Space = "rgb"
    mean: tuple[Finite, ...] = IMAGENET_MEAN
    std: tuple[Positive, ...] = IMAGENET_STD
    background: Background | None = None

    def __post_init__(self) -> None:
        check(self, "recipe")
        if self.jitter[3] > 0.5:
            raise UserError(f"recipe.jitter: expected a hue of at most 0.5, got {self.jitter[3]}")
        if len(self.mean) != len(self.std) or not self.mean:
            raise UserError(
                f"recipe: mean has {len(self.mean)} values and std has {len(self.std)}; give both "
                "one value per channel, or one for all"
            )

        if self.space != "rgb" and self.rand_augment:
            raise UserError(
                f"recipe.space: RandAugment fills with the mean, which is no colour in "
                f"{self.space!r}; set rand_augment to 0"
            )

    def unused(self) -> dict[str, str]:
        """Return the fields that have no effect, with the reason."""
        no_jitter, no_grey = "jitter is (0, 0, 0, 0)", "gray_p is 0"
        unused = {} if any(self.jitter) else {"jitter_p": no_jitter, "jitter_kind": no_jitter}
        return unused | ({} if self.gray_p else {"gray_first": no_grey})

    @property
    def scalable(self) -> bool:
        """True if the chain has a distortion that `View.strength` scales."""
        return bool(self.affine or any(self.jitter) or self.noise or self.rand_augment)


Chain = str | Transform  # of a field: the name of a chain in `augment.recipes`, or a complete one
