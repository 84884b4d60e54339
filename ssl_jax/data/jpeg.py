"""Properties of a JPEG file from its segments, without decoding it."""

import io
import re
from collections.abc import Iterator

from PIL import Image

from ssl_jax.data.pillow import ORIENTATION

_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # start of a segment with a length
_WITH_LENGTH = frozenset(range(2, 0xFF)) - frozenset(range(0xD0, 0xD9))
_PROGRESSIVE, _SCAN, _END = (0xC2, 0xC6, 0xCA, 0xCE), 0xDA, 0xD9
_FRAME = tuple(n for n in range(0xC0, 0xD0) if n not in (0xC4, 0xC8, 0xCC))


def is_turned(data: bytes) -> bool:
    """True if the EXIF tag says that the picture is not upright."""
    if not _has_exif(data):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as file:
            return file.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # a corrupt tag must not cost the picture
        return False


def _has_exif(data: bytes) -> bool:
    """True if one of the first segments of a JPEG file is EXIF."""
    for marker, at in _segments(data):
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            return False
        if data[at : at + 6] == b"Exif\0\0":
            return True
    return False


def scans(data: bytes) -> int:
    """Count the scans of a JPEG file; 1 if the first holds all, where the decoder stops."""
    frame, count = 0, 0
    for marker, at in _segments(data):
        if marker in _FRAME and not frame:
            frame = -1 if marker in _PROGRESSIVE else int.from_bytes(data[at + 5 : at + 6], "big")
        elif marker == _SCAN:
            count += 1
            if frame == int.from_bytes(data[at : at + 1], "big"):
                break
    return count


def in_one_scan(data: bytes) -> bool:
    """True if the decoder need not hold all coefficients, as it must for several scans."""
    frame, components = 0, 1
    if data[:2] != b"\xff\xd8":
        return True
    for marker, at in _segments(data):
        if marker in _FRAME:
            frame, components = marker, data[at + 5] if at + 5 < len(data) else 1
        elif marker == _SCAN:
            return frame not in _PROGRESSIVE and data[at : at + 1] == bytes([components])
    return True


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, position of the content) of the segments of a JPEG file, as decoders do."""
    at, last = 2, len(data) - 4
    while at <= last:
        if data[at] != 0xFF or data[at + 1] not in _WITH_LENGTH:  # filling, or damage
            match = _MARKER.search(data, at)
            at = match.start() if match else last + 1
            continue
        marker = data[at + 1]
        if marker == _END:
            return
        yield marker, at + 4
        at += 2 + max(2, data[at + 2] << 8 | data[at + 3])
