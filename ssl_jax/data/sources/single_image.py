"""`single_image:FILE`: crops of one image (Asano et al. 2020, 1904.13132, "A critical analysis of
self-supervision, or what we can learn from a single image").

`single_image:FILE#crops=100000&side=64&seed=1` sets the number of crops, their side in pixels and
the seed. The defaults are the paper's: as many crops as ImageNet has images, of 256 px.

Crop i is a function of (seed, i) alone: a random box of the image, resized, rotated and sheared. It
is computed when it is read, so nothing is stored and a run resumes as with any other data. The
released script also changes the colours of every second crop before it writes it; here that is the
view's part (`view.recipe`).
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data import draws
from ssl_jax.data.decode import Box, DecodeError, crop_resize, native, random_box, viewable
from ssl_jax.data.files import WHOLE_BYTES
from ssl_jax.data.levels import to_uint8
from ssl_jax.data.sources.base import Source

OPTIONS = {"crops": 1_281_167, "side": 256, "seed": 0}
MOST = {"crops": 2**31 - 1, "side": 4096, "seed": 2**32 - 1}
AREA = (1 / 500, 1.0)  # share of the image's area
RATIO = (3 / 4, 4 / 3)  # width over height
ROTATION, SHEAR = 30.0, 30.0  # largest angles, in degrees
TRIES = 100  # draws of a box, and of its angles


class SingleImageSource(Source):
    """`crops` squares of `side` pixels, cut at random out of an image (H, W, C) uint8."""

    labels, class_names = None, ()

    def __init__(self, name: str, image: np.ndarray, crops: int, side: int, seed: int) -> None:
        self.name, self._image = name, image
        self._crops, self._side, self._seed = crops, side, seed

    def __len__(self) -> int:
        return self._crops

    def read(self, index: int) -> np.ndarray:
        numbers = draws.uniform(self._seed, index, shape=(TRIES, 6))
        height, width = self._image.shape[:2]
        box = random_box(height, width, numbers[:, :4], AREA, RATIO)
        return cut(self._image, box, *draw_angles(numbers[:, 4:], self._side), self._side)

    def layout(self) -> str:
        """Digest the pixels and the options."""
        text = repr((self._image.shape, self._crops, self._side, self._seed))
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self._image).data)
        return digest.hexdigest()


def draw_angles(numbers: np.ndarray, side: int) -> tuple[float, float]:
    """Return a rotation and a shear in degrees: the first of (TRIES, 2) draws, uniform in [0, 1),
    at which the crop shows nothing but its box.

    The released script does not look: a quarter of its crops have black corners, which reveal the
    rotation to methods that predict it (RotNet).
    """
    for rotation, shear in ((2 * numbers - 1) * (ROTATION, SHEAR)).tolist():
        matrix = turn(rotation, shear, side)
        corners = matrix @ np.array([(x, y, 1) for x in (0, side - 1) for y in (0, side - 1)]).T
        if np.all((corners >= 0) & (corners <= enlarged(side) - 1)):
            return rotation, shear
    return 0.0, 0.0


def cut(image: np.ndarray, box: Box, rotation: float, shear: float, side: int) -> np.ndarray:
    """Resize a box of an image (H, W, C) to `enlarged(side)`, turn it by the two angles in degrees,
    and return its middle, (side, side, C). Pixels outside of the box are black.
    """
    resized = crop_resize(image, box, enlarged(side), "bicubic")
    matrix, flags = turn(rotation, shear, side), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    middle = cv2.warpAffine(resized, matrix, (side, side), flags=flags)
    return middle.reshape(side, side, -1)


def enlarged(side: int) -> int:
    """Return the side of the square that holds the crop in any rotation."""
    return int(2**0.5 * side)


def turn(rotation: float, shear: float, side: int) -> np.ndarray:
    """Return the map (2, 3) of a crop's pixels (x, y) to those of the enlarged square: RandomAffine
    of torchvision, around the square's centre, and its CenterCrop.
    """
    angle, lean = np.deg2rad(rotation), np.tan(np.deg2rad(shear))
    sin, cos = np.sin(angle), np.cos(angle)
    linear = np.array([[cos - sin * lean, cos * lean + sin], [-sin, cos]])
    centre = (enlarged(side) - 1) / 2
    corner = round((enlarged(side) - side) / 2)
    return np.column_stack([linear, linear @ np.full(2, corner - centre) + centre])


def load(path: str, split: str) -> SingleImageSource:
    """Read the image of `FILE#OPTIONS`.

    Raises:
      UserError: no such file, not an image, or an unknown or invalid option.
    """
    name = f"single_image:{path}"
    place, options = _parse(path)
    file = Path(place).expanduser()
    if not file.is_file():
        raise UserError(f"{name}: no such file; expected one image")
    if file.stat().st_size > WHOLE_BYTES:
        raise UserError(f"{name}: expected a file of at most {WHOLE_BYTES >> 20} MiB")
    try:
        image = viewable(to_uint8(native(file.read_bytes()), ()))
    except DecodeError as e:
        raise UserError(f"{name}: not a readable image ({e})") from None
    return SingleImageSource(name, np.ascontiguousarray(image), **options)


def _parse(path: str) -> tuple[str, dict[str, int]]:
    """Parse FILE#OPTIONS."""
    place, mark, fragment = path.rpartition("#")
    if not mark or Path(path).expanduser().exists():
        return path, OPTIONS
    options = dict(OPTIONS)
    for term in fragment.split("&"):
        key, _, value = term.partition("=")
        if key not in OPTIONS:
            raise UserError(
                f"single_image:{path}: unknown {term!r} after '#'; {suggest(key, OPTIONS)}"
            )
        least = 0 if key == "seed" else 1
        if not value.isdecimal() or not least <= int(value) <= MOST[key]:
            raise UserError(
                f"single_image:{path}: expected {key}=N with a whole number from {least} to "
                f"{MOST[key]}, got {value!r}"
            )
        options[key] = int(value)
    return place, options
