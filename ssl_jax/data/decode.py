"""Encoded images to pixels, and pixels to crops of one size; uint8 throughout."""

import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

cv2.setNumThreads(1)  # the pipeline's threads are the parallelism

MAX_PIXELS = (
    2 * 89_478_485
)  # Pillow's own limit; the same for JPEG files, which do not go through it
MAX_BYTES = 1 << 30  # of an image file
MAX_SCANS = 100  # of a JPEG: each is a pass over all pixels, for as little as 30 bytes
# Of Pillow's formats those that need no interpreter: an EPS file would be run by Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
TRIES = 10
_EXIF_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # of a JPEG segment that has a length
_WITH_LENGTH = frozenset(range(2, 0xFF)) - frozenset(range(0xD0, 0xD9))
_PROGRESSIVE, _SCAN, _END = (0xC2, 0xC6, 0xCA, 0xCE), 0xDA, 0xD9
_FRAME = tuple(n for n in range(0xC0, 0xD0) if n not in (0xC4, 0xC8, 0xCC))
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

EVAL_SHARE = 0.875  # of an evaluation image's shorter side
Box = tuple[int, int, int, int]  # top, left, height, width
Room = Callable[[int, int], float]


class DecodeError(ValueError):
    """The bytes are no image that can be read."""


def decode(data: bytes, channels: int = 3, room: Room | None = None) -> np.ndarray:
    """Decode an image file to (H, W, channels) uint8, RGB or grey, upright as its EXIF tag says.

    JPEG goes through simplejpeg (twice Pillow's speed), everything else through Pillow. Transparent
    parts become white, 16-bit values are rounded to 8 bits, of an animation the first frame is
    taken, CMYK and palettes become RGB.

    Args:
      room: for training: how many times smaller, given (height, width), the image may be. A JPEG
        file is then decoded to 1/2, 1/4 or 1/8 of its size where that still is enough, and in any
        case by libjpeg-turbo's fast transform and colour upsampling: off by 0.8 grey levels in the
        mean, a tenth of the time saved. Without, a decode is exact and of full size.

    Raises:
      DecodeError: no image, a broken one, or one beyond `MAX_PIXELS`, `MAX_BYTES` or `MAX_SCANS`.
    """
    _check(data)
    if data[:2] == b"\xff\xd8":
        image = _decode_jpeg(data, channels, room)
        if image is not None:
            return image
    with opened(data) as file:
        return _from_pillow(file, channels)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An image file in Pillow, of one of `FORMATS`.

    Raises:
      DecodeError: as `decode`, or anything else that is raised while it is open.
    """
    _check(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise DecodeError(f"{file.width} x {file.height} is more than {MAX_PIXELS} pixels")
            yield file
    except DecodeError:
        raise
    except Exception as e:  # plugins raise nearly any type on broken bytes
        raise DecodeError(f"{type(e).__name__}: {e}" if data else "the file is empty") from None


def check_size(size: int) -> None:
    """Raises `DecodeError` for an image file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise DecodeError(f"a file of {size:,} bytes; the limit is {MAX_BYTES:,}")


def _check(data: bytes) -> None:
    check_size(len(data))
    if data[:2] == b"\xff\xd8" and _scans(data) > MAX_SCANS:
        raise DecodeError(f"a JPEG of more than {MAX_SCANS} scans")


def _decode_jpeg(data: bytes, channels: int, room: Room | None) -> np.ndarray | None:
    """None where Pillow knows better: CMYK, a rotated picture, or data that are not quite right."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        if colour == "CMYK" or height * width > MAX_PIXELS or _is_turned(data):
            return None
        shrink = 1 if room is None else _power_of_two(room(height, width))
        return simplejpeg.decode_jpeg(
            data,
            "RGB" if channels == 3 else "GRAY",
            fastdct=room is not None,
            fastupsample=room is not None,
            min_height=-(-height // shrink),
            min_width=-(-width // shrink),
            min_factor=shrink,
        )
    except ValueError:
        return None


def _power_of_two(room: float) -> int:
    """The largest of 1, 2, 4, 8 within `room`: the scales that have vectorised transforms."""
    return next((n for n in (8, 4, 2) if n <= room), 1)


def _is_turned(data: bytes) -> bool:
    if not _has_exif(data):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            return file.getexif().get(_EXIF_ORIENTATION, 1) != 1
    except Exception:  # a broken tag must not cost the picture
        return False


def _has_exif(data: bytes) -> bool:
    """Whether one of the segments that open a JPEG file is EXIF's."""
    for marker, at in _segments(data):
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            return False
        if data[at : at + 6] == b"Exif\0\0":
            return True
    return False


def _scans(data: bytes) -> int:
    """Scans of a JPEG file; 1 where the decoder stops after the first, which holds all."""
    frame, count = 0, 0
    for marker, at in _segments(data):
        if marker in _FRAME and not frame:
            frame = -1 if marker in _PROGRESSIVE else int.from_bytes(data[at + 5 : at + 6], "big")
        elif marker == _SCAN:
            count += 1
            if frame == int.from_bytes(data[at : at + 1], "big"):
                break
    return count


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, place of what it holds) of the segments of a JPEG file, as decoders find them."""
    at, last = 2, len(data) - 4
    while at <= last:
        if data[at] != 0xFF or data[at + 1] not in _WITH_LENGTH:  # filling, or damage
            found = _MARKER.search(data, at)
            at = found.start() if found else last + 1
            continue
        marker = data[at + 1]
        if marker == _END:
            return
        yield marker, at + 4
        at += 2 + max(2, data[at + 2] << 8 | data[at + 3])


def _from_pillow(file: Image.Image, channels: int) -> np.ndarray:
    image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's "I;16" or "I"
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """(..., C) uint8 with `channels` channels: grey is repeated, RGB becomes luminance (ITU 601).

    Raises:
      ValueError: another pair of channel counts.
    """
    have = images.shape[-1]
    if have == channels:
        return images
    if have == 1 and channels == 3:
        return np.repeat(images, 3, axis=-1)
    if have == 3 and channels == 1:
        grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
        return np.round(grey).astype(np.uint8)[..., None]
    raise ValueError(f"images of {have} channels cannot become images of {channels}")


def random_box(
    height: int,
    width: int,
    draws: np.ndarray,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    kind: Literal["torchvision", "one_draw"] = "torchvision",
) -> Box:
    """The box (top, left, height, width) of a random resized crop.

    Area share uniform in `area`, aspect ratio log-uniform in `ratio`. torchvision's
    RandomResizedCrop takes the first of `TRIES` draws that fits, else the largest central crop
    whose aspect ratio lies within `ratio`; BYOL's code takes the first draw, cut down to the image.

    Args:
      draws: (TRIES, 4) uniform in [0, 1): area, aspect, top and left of each try.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for share, aspect, top, left in draws.tolist():
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        shape = math.exp(log_low + (log_high - log_low) * aspect)
        w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if kind == "one_draw":
            w, h = min(max(w, 1), width), min(max(h, 1), height)
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h = min(height, max(1, round(width / ratio[0])))
    w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_resize(
    image: np.ndarray,
    box: Box,
    size: int,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The box (top, left, height, width) of an (H, W, C) image as (size, size, C).

    Interpolates between the nearest pixels. Where a side shrinks more than twofold, and that would
    skip pixels, several bilinear values are averaged for each (`samples`): at up to fourfold a
    third of the time of `cv2.INTER_AREA`. OpenCV's bicubic kernel has a = -0.75, as PyTorch's.

    Args:
      out: (size, size, C) uint8, contiguous: where the result is to be written.
    """
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    if out is None:
        out = np.empty((size, size, image.shape[-1]), np.uint8)
    if (height, width) == (size, size):
        out[:] = part
        return out
    rows, columns = samples(height, width, size)
    if rows == columns == 1:
        cv2.resize(part, (size, size), dst=out, interpolation=_INTERPOLATION[interpolation])
        return out
    fine = cv2.resize(part, (columns * size, rows * size), interpolation=cv2.INTER_LINEAR)
    cv2.resize(fine, (size, size), dst=out, interpolation=cv2.INTER_AREA)
    return out


def samples(height: int, width: int, size: int) -> tuple[int, int]:
    """How many interpolated values, down and across, are averaged for each of (size, size) pixels.

    So many that no two are further apart than two pixels; 2 x 2 rather than 2 x 1, which OpenCV
    averages in half the time.
    """
    down, across = (max(1, -(-side // (2 * size))) for side in (height, width))
    return max(down, min(2, across)), max(across, min(2, down))


def resize(
    image: np.ndarray, size: int, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> np.ndarray:
    """The whole (H, W, C) image as (size, size, C); its aspect ratio is not kept."""
    return crop_resize(image, (0, 0, *image.shape[:2]), size, interpolation)


def eval_crop(image: np.ndarray, size: int, share: float = EVAL_SHARE) -> np.ndarray:
    """The central square as (size, size, C), for evaluation.

    Its side is `share` of the image's shorter side (by default 224 / 256, the usual resize to 256
    and crop of 224), or all of it where the image has no pixels to spare: a shorter side <= `size`.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    side = short if short <= size else max(1, round(short * share))
    return crop_resize(image, ((height - side) // 2, (width - side) // 2, side, side), size)
