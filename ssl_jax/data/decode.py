"""Decoding of images to pixels, and crops of one size; uint8 throughout."""

import contextlib
import io
import math
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from absl import logging
from PIL import Image

from ssl_jax.core.inputs import Size, sides
from ssl_jax.data import tiff
from ssl_jax.data.jpeg import in_one_scan, is_turned, scans
from ssl_jax.data.levels import Range, to_uint8
from ssl_jax.data.pillow import ORIENTATION, convert, on_white, orientation, slabs, upright

cv2.setNumThreads(1)  # the pipeline's threads are the parallelism

MAX_PIXELS = 2 * 89_478_485  # Pillow's limit; also for JPEG files, which do not go through Pillow
MAX_BYTES = 1 << 30  # size of an image file
MAX_MEMORY = 900_000_000  # bytes per decode, pixels included, computed from the header
MAX_SCANS = 100  # scans of a JPEG: each is a pass over all pixels, for as little as 30 bytes
# Pillow's formats that need no interpreter: Ghostscript would run the code of an EPS file.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
TRIES = 10
_NUMPY = b"\x93NUMPY"  # arrays that `prepare` writes if no picture format fits
_LARGE = 1 << 27  # bytes; decodes that take more run one at a time
_one_at_a_time = threading.Lock()
_logged: set[tuple[str, str]] = set()
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
# Bytes per pixel that Pillow holds, by mode, and that its decoder holds in addition, by format;
# measured in tests/data/decode_test.py.
_HELD = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_BESIDE = {"WEBP": 14, "AVIF": 14, "JPEG2000": 18, "TIFF": 4}

EVAL_SHARE = 0.875  # share of an evaluation image's shorter side
Box = tuple[int, int, int, int]  # top, left, height, width
Room = Callable[[int, int], float]


class DecodeError(ValueError):
    """The bytes are not a readable image."""


def decode(
    data: bytes, channels: int = 3, room: Room | None = None, value_range: Range = ()
) -> np.ndarray:
    """Decode an image file to (H, W, channels) uint8, upright according to its EXIF tag.

    JPEG goes through simplejpeg (twice Pillow's speed), TIFF files of several bands or wide pixels
    through `data.tiff`, everything else through Pillow. Transparent parts become white; CMYK and
    palettes become RGB. The fourth band of a TIFF is an ordinary band. Bands beyond `channels`,
    further pages and the frames of an animation after the first are left out, which is logged once.

    Args:
      channels: 1 or 3 for grey or RGB, from the first three bands or the only one. Any other number
        takes the first bands; if a TIFF has fewer, those of further pages of the same size follow.
      room: for training: how many times smaller the image may be, as a function of (height, width).
        A JPEG or JPEG 2000 file is then decoded to 1/2, 1/4 or 1/8 of its size if that is enough,
        and JPEG always by libjpeg-turbo's fast transform and colour upsampling, which are off by
        0.8 grey levels on average and save a tenth of the time. Without it, decoding is exact and
        at full size.
      value_range: values that become 0 to 255, for pixels that are not 8-bit; by default the range
        of this image alone. See `levels.to_uint8`.

    Raises:
      DecodeError: not an image, a corrupt one, one with too few bands, or one beyond `MAX_PIXELS`,
        `MAX_BYTES`, `MAX_SCANS` or `MAX_MEMORY`.
    """
    pixels = native(data, channels, room)
    return take_bands(to_uint8(pixels, value_range), channels)


def native(data: bytes, channels: int = 0, room: Room | None = None) -> np.ndarray:
    """Decode to (H, W, bands) in the file's own number type; arguments as for `decode`.

    Plain pictures give RGB or grey; other files give all bands (`channels` 0), or at least as many
    as `channels` if the file has them.

    Raises:
      DecodeError: as `decode`.
    """
    _check(data)
    if data[:2] == b"\xff\xd8" and channels in (0, 1, 3):
        image = _decode_jpeg(data, channels, room)
        if image is not None:
            return image
    with _readable(data):
        if data.startswith(_NUMPY):
            return _array(data)
        if tiff.is_tiff(data):
            image = _decode_tiff(data, channels)
            if image is not None:
                return image
    with open_image(data) as file:
        depth = _depth(file, data)
        if depth > 8 and file.mode in ("RGB", "RGBA", "LA"):
            return _decode_wide(file, data, channels)
        halved = _halvings(file, data, room) if file.format == "JPEG2000" else 0
        return _from_pillow(file, channels, 0 if in_one_scan(data) else 8, halved)


@contextlib.contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image file of one of `FORMATS` in Pillow.

    Raises:
      DecodeError: as `decode`, and for any other error that is raised while the file is open.
    """
    _check(data)
    with _readable(data), Image.open(io.BytesIO(data), formats=FORMATS) as file:
        if file.width * file.height > MAX_PIXELS:
            raise DecodeError(f"{file.width} x {file.height} is more than {MAX_PIXELS} pixels")
        yield file


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[None]:
    """Turn every error that is raised inside into a `DecodeError`."""
    try:
        yield
    except DecodeError:
        raise
    except Image.UnidentifiedImageError:
        reason = "corrupt, or of a format other than " + ", ".join(FORMATS)
        raise DecodeError(reason if data else "the file is empty") from None
    except Exception as e:  # plugins raise nearly any type on corrupt bytes
        raise DecodeError(f"{type(e).__name__}: {e}" if data else "the file is empty") from None


@contextlib.contextmanager
def _bounded(height: int, width: int, need: float) -> Iterator[None]:
    """Bound the memory of a decode that takes `need` bytes; large images are decoded one at a time.

    Raises:
      DecodeError: it takes more than `MAX_MEMORY`.
    """
    if need > MAX_MEMORY:
        raise DecodeError(
            f"{width} x {height} pixels of this kind take {need / 1e6:,.0f} MB to decode; the "
            f"limit is {MAX_MEMORY / 1e6:,.0f} MB"
        )
    with _one_at_a_time if need > _LARGE else contextlib.nullcontext():
        yield


def check_size(size: int) -> None:
    """Raise `DecodeError` for an image file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise DecodeError(f"a file of {size:,} bytes; the limit is {MAX_BYTES:,}")


def _check(data: bytes) -> None:
    check_size(len(data))
    if data[:2] == b"\xff\xd8" and scans(data) > MAX_SCANS:
        raise DecodeError(f"a JPEG of more than {MAX_SCANS} scans")


def _decode_jpeg(data: bytes, channels: int, room: Room | None) -> np.ndarray | None:
    """Decode a JPEG; None if Pillow must: CMYK, a rotated picture, or slightly corrupt data."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        if colour == "CMYK" or height * width > MAX_PIXELS or is_turned(data):
            return None
        shrink = 1 if room is None else _power_of_two(room(height, width))
        depth = 1 if channels == 1 else 3
        coefficients = 2 * (1 if colour == "Gray" else 3) * (not in_one_scan(data))
        need = height * width * (coefficients + depth / shrink**2)
        with _bounded(height, width, need):
            return simplejpeg.decode_jpeg(
                data,
                "GRAY" if channels == 1 else "RGB",
                fastdct=room is not None,
                fastupsample=room is not None,
                min_height=-(-height // shrink),
                min_width=-(-width // shrink),
                min_factor=shrink,
            )
    except DecodeError:
        raise
    except ValueError:
        return None


def _power_of_two(room: float) -> int:
    """Return the largest of 1, 2, 4, 8 within `room`: the scales with vectorised transforms."""
    return next((n for n in (8, 4, 2) if n <= room), 1)


def _array(data: bytes) -> np.ndarray:
    """Read the array of a .npy file, (H, W, bands)."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    if read is None:
        raise DecodeError(f"an array in version {version} of NumPy's format")
    shape, fortran_order, dtype = read(file)
    if len(shape) != 3 or dtype.kind not in "uif" or fortran_order or 0 in shape:
        raise DecodeError(f"an array of {dtype}, {shape}; expected numbers (H, W, bands)")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return flat.reshape(shape).astype(dtype.newbyteorder("="))


def _decode_tiff(data: bytes, channels: int) -> np.ndarray | None:
    """Decode a TIFF; None if Pillow reads it: 8-bit grey, RGB, palettes, JPEG compression."""
    pages = tiff.pages(data, max(channels, 1) + 1)
    page = pages[0] if pages else None
    if page is None or page.dtype is None:
        return None
    alike = [p for p in pages if p[1:5] == page[1:5] and p.dtype is not None]
    count = max(1, min(len(alike), -(-channels // page.bands)))
    _left_out(len(pages) - count, "page", "TIFF file")
    if count == 1 and page.dtype.itemsize == 1 and page.bands in (1, 3) and page.dtype.kind == "u":
        return None
    if page.height * page.width > MAX_PIXELS:
        raise DecodeError(f"{page.width} x {page.height} is more than {MAX_PIXELS} pixels")
    held = page.height * page.width * page.bands * page.dtype.itemsize
    need = page.peak + held * 2 * (count - 1) + page.height * page.width * max(channels, 1)
    with _bounded(page.height, page.width, need):
        parts = [tiff.read(data, p) for p in alike[:count]]
        image = parts[0] if count == 1 else np.concatenate(parts, axis=-1)
    return upright(image, page.tags.get(ORIENTATION, 1))


def _halvings(file: Image.Image, data: bytes, room: Room | None) -> int:
    """Return how often to halve a JPEG 2000 file, up to the file's limit: for `room`, or to stay
    within `MAX_MEMORY`.
    """
    at = data.find(b"\xff\x52")  # coding style
    most = min(3, data[at + 9] if 0 <= at < len(data) - 9 else 0)
    halved = 0 if room is None else _power_of_two(room(file.height, file.width)).bit_length() - 1
    need = file.height * file.width * (8 + _BESIDE["JPEG2000"])
    while halved < most and need / 4**halved > MAX_MEMORY:
        halved += 1
    return min(halved, most)


def _depth(file: Image.Image, data: bytes) -> int:
    """Return the bits per sample of a PNG or JPEG 2000 file; 8 for any other."""
    if file.format == "PNG":
        return data[24]
    if file.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")  # start of the code stream, its size segment
        return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8
    return 8


def _decode_wide(file: Image.Image, data: bytes, channels: int) -> np.ndarray:
    """Decode colours of more than 8 bits, of which Pillow would keep the highest 8."""
    bands = 3 if file.mode == "RGB" else 4
    beside = _BESIDE.get(str(file.format), 0)
    need = file.width * file.height * (4 * bands + beside + max(channels, 3))
    with _bounded(file.height, file.width, need):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None or image.shape[2:] != (bands,):
            raise DecodeError(f"a {file.format} file of wide pixels that OpenCV does not read")
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB if bands == 3 else cv2.COLOR_BGRA2RGBA, dst=image)
        if file.mode != "RGB" and channels != 4:
            image = on_white(image)
    return upright(image, orientation(file))


def _from_pillow(file: Image.Image, channels: int, beside: int, halved: int) -> np.ndarray:
    """Decode a file that Pillow reads.

    Args:
      beside: bytes per pixel that the decoder holds beside the pixels.
      halved: how often the decoder halves the image.
    """
    height, width = file.height, file.width
    wide = file.mode == "F" or file.mode.startswith("I")
    mode = {1: "L", 2: "LA", 4: "RGBA"}.get(channels, "RGB")
    if mode in ("LA", "RGBA") and (file.mode != mode or file.format not in ("PNG", "WEBP")):
        mode = "RGB"
    held = _HELD.get(file.mode, 4)
    out = held if wide else len(mode)
    turned = (file.format != "PNG" or "exif" in file.info) and orientation(file) != 1
    beside += _BESIDE.get(str(file.format), 0)
    need = held + beside + out * (2 if turned or wide else 1) + (4 if wide else 0)
    if halved:
        file.reduce = halved  # type: ignore[assignment,method-assign]
    with _bounded(height, width, need * height * width / 4**halved):
        file.load()
        if wide:
            image = np.concatenate([np.asarray(part) for part in slabs(file)])[..., None]
        else:
            image = convert(file, mode)
    with contextlib.suppress(Exception):  # corrupt metadata do no harm
        if file.format in ("GIF", "WEBP", "PNG", "AVIF"):
            _left_out(getattr(file, "n_frames", 1) - 1, "frame", f"{file.format} file")
    return upright(image, orientation(file))


def _left_out(count: int, what: str, of: str) -> None:
    """Log, once per process, that a part of an image is left out."""
    if count > 0 and (what, of) not in _logged:
        _logged.add((what, of))
        more = "" if what == "frame" else "; --config.data.channels=N reads N bands"
        logging.warning(
            "%d %s(s) of a %s are left out, and of similar files too%s", count, what, of, more
        )


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert (..., C) uint8 to `channels` channels: repeat grey, or take the luminance (ITU 601).

    Raises:
      ValueError: any other pair of channel counts.
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


def take_bands(image: np.ndarray, channels: int) -> np.ndarray:
    """Take (H, W, channels) of (H, W, bands) uint8: grey or RGB from the first one or three bands,
    or else the first bands.

    Raises:
      DecodeError: there are fewer bands.
    """
    bands = image.shape[-1]
    if bands == channels:
        return image
    if channels in (1, 3):
        used = 3 if bands >= 3 else 1
        _left_out(bands - used, "band", f"image of {bands} bands")
        image = np.ascontiguousarray(image[..., :used])
        return to_channels(image, channels)
    if channels > bands:
        raise DecodeError(f"expected an image of {channels} bands, got {bands}")
    _left_out(bands - channels, "band", f"image of {bands} bands")
    return np.ascontiguousarray(image[..., :channels])


def viewable(images: np.ndarray) -> np.ndarray:
    """Reduce (..., C) to displayable channels: the first of two, the first three of more."""
    bands = images.shape[-1]
    return images[..., : 3 if bands >= 3 else 1]


def random_box(
    height: int,
    width: int,
    draws: np.ndarray,
    area: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    kind: Literal["torchvision", "one_draw", "same_aspect"] = "torchvision",
) -> Box:
    """Return the box (top, left, height, width) of a random resized crop.

    The area share is uniform in `area`, the aspect ratio log-uniform in `ratio`. torchvision's
    RandomResizedCrop takes the first of `TRIES` draws that fits, or else the largest central crop
    whose aspect ratio lies within `ratio`; BYOL's code clips the first draw to the image. With
    "same_aspect" the crop has the image's aspect ratio.

    Args:
      draws: (TRIES, 4) uniform in [0, 1): area, aspect, top and left of each try.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for share, aspect, top, left in draws.tolist():
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        shape = math.exp(log_low + (log_high - log_low) * aspect)
        if kind == "same_aspect":
            shape = width / height
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
    size: Size,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Crop a box (top, left, height, width) of an (H, W, C) image, resized to `size`: (h, w, C).

    Interpolates between the nearest pixels. If a side shrinks more than twofold, which would skip
    pixels, several bilinear values are averaged per pixel (`samples`): up to fourfold, in a third
    of the time of `cv2.INTER_AREA`. OpenCV's bicubic kernel has a = -0.75, like PyTorch's.

    Args:
      out: (h, w, C) uint8, contiguous; receives the result.
    """
    top, left, height, width = box
    tall, wide = sides(size)
    part = image[top : top + height, left : left + width]
    if out is None:
        out = np.empty((tall, wide, image.shape[-1]), np.uint8)
    if (height, width) == (tall, wide):
        out[:] = part
        return out
    rows, columns = samples(height, width, size)
    if rows == columns == 1:
        cv2.resize(part, (wide, tall), dst=out, interpolation=_INTERPOLATION[interpolation])
        return out
    fine = cv2.resize(part, (columns * wide, rows * tall), interpolation=cv2.INTER_LINEAR)
    cv2.resize(fine, (wide, tall), dst=out, interpolation=cv2.INTER_AREA)
    return out


def averaged(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W, C) image to (height, width, C) by the mean of the covered pixels.

    Works in groups of four channels, because OpenCV averages no more at once.
    """
    bands = [
        cv2.resize(image[..., at : at + 4], (width, height), interpolation=cv2.INTER_AREA)
        for at in range(0, image.shape[-1], 4)
    ]
    return np.concatenate([band.reshape(height, width, -1) for band in bands], axis=-1)


def samples(height: int, width: int, size: Size) -> tuple[int, int]:
    """Return how many interpolated values, down and across, to average per output pixel.

    Enough that no two are more than two pixels apart; 2 x 2 rather than 2 x 1, because OpenCV
    averages it in half the time.
    """
    box = zip((height, width), sides(size), strict=True)
    down, across = (max(1, -(-side // (2 * resized))) for side, resized in box)
    return max(down, min(2, across)), max(across, min(2, down))


def resize(
    image: np.ndarray, size: Size, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> np.ndarray:
    """Resize the whole (H, W, C) image to `size`, without keeping its aspect ratio."""
    return crop_resize(image, (0, 0, *image.shape[:2]), size, interpolation)


def eval_crop(image: np.ndarray, size: Size, share: float = EVAL_SHARE) -> np.ndarray:
    """Crop the centre and resize it to `size`, (h, w, C), for evaluation.

    The crop has the aspect ratio of `size`. Its sides are `share` of the largest such crop's (by
    default 224 / 256, the usual resize to 256 and crop of 224), or all of these if they are no
    larger than `size`.
    """
    height, width = image.shape[:2]
    tall, wide = sides(size)
    if height * wide <= width * tall:
        h, w = height, height * wide / tall
    else:
        h, w = width * tall / wide, width
    share = share if h > tall else 1
    h, w = max(1, round(h * share)), max(1, round(w * share))
    return crop_resize(image, ((height - h) // 2, (width - w) // 2, h, w), size)
