"""Conversion of data sets to sharded ArrayRecord files, which resumes after an interruption."""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import simplejpeg

from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.plain import from_json
from ssl_jax.core.ranges import Count, Range, Whole
from ssl_jax.data.decode import DecodeError, averaged, native
from ssl_jax.data.records import Record, encode
from ssl_jax.data.sources.base import Source

MANIFEST = "manifest.json"
Quality = Annotated[int, Range(1, 100)]  # of a JPEG
_AHEAD = 256  # images decoded in parallel


@dataclass(frozen=True)
class Shards:
    """Options of the written records.

    Attributes:
      size: short side, in pixels, to which larger images are resized; 0 keeps the files as they
        are.
      quality: JPEG quality of resized images.
      per_shard: examples per file.
    """

    size: Whole = 0
    quality: Quality = 90
    per_shard: Count = 10_000

    def __post_init__(self) -> None:
        check(self, "prepare")


def prepare(
    source: Source,
    output: Path,
    shards: Shards,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write `source` to `output`/data-00000-of-00001.array_record ... and `output`/manifest.json.

    A shard is written under another name and renamed when it is complete; a second run with the
    same source and options writes only missing shards. Images that cannot be decoded are left out
    and named in the manifest.

    Args:
      progress: called with the number of finished examples.

    Returns:
      The manifest: counts, class names, options, the source's fingerprint, a digest of each shard.

    Raises:
      UserError: `output` holds other data, or cannot be written, or no image could be decoded,
        or images have several labels.
    """
    if source.label_sets is not None:
        raise UserError(
            f"{source.name} has several labels per image, which prepared files do not hold; train "
            "on it as it is"
        )
    request = {
        "source": source.name,
        "fingerprint": source.fingerprint(),
        "size": shards.size,
        "quality": shards.quality,
        "per_shard": shards.per_shard,
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        marker = output / f".{MANIFEST}.begun"
        earlier = next((p for p in (output / MANIFEST, marker) if p.exists()), None)
        if earlier is None and any(not p.name.startswith(".") for p in output.iterdir()):
            raise UserError(f"{output} holds other files; name an empty folder")
        if earlier is not None:
            stored = _read(earlier)
            if source.matches(str(stored.get("fingerprint"))):  # of an older version
                request["fingerprint"] = stored["fingerprint"]
            if any(stored.get(key) != value for key, value in request.items()):
                raise UserError(f"{output} holds other data or options; name another folder")
        else:
            write_json(marker, request)
        parts = []
        count = -(-len(source) // shards.per_shard)
        names = [f"data-{k:05d}-of-{count:05d}.array_record" for k in range(count)]
        for k, name in enumerate(names):
            rows = range(k * shards.per_shard, min((k + 1) * shards.per_shard, len(source)))
            parts.append(_shard(source, output, name, rows, shards, progress))
            progress(rows.stop)
    except OSError as e:
        raise UserError(f"cannot write to {output}: {e.strerror or e}") from None
    manifest = request | {
        "examples": sum(part["examples"] for part in parts),
        "class_names": list(source.class_names),
        "shards": parts,
    }
    if not manifest["examples"]:
        raise UserError(f"{source.name}: none of its {len(source)} images can be decoded")
    write_json(output / MANIFEST, manifest)
    marker.unlink(missing_ok=True)
    for name in names:
        _note(output, name).unlink(missing_ok=True)
    return manifest


def _shard(
    source: Source,
    output: Path,
    name: str,
    rows: range,
    shards: Shards,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Write a file and return its entry in the manifest; files of an earlier run are kept."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path, note = output / name, _note(output, name)
    if (output / MANIFEST).exists():
        parts = _read(output / MANIFEST).get("shards", [])
        part = next((part for part in parts if part.get("name") == name), None)
        if part is None:
            raise UserError(f"{output / MANIFEST} lacks {name}; name another folder")
        return part
    if path.exists() and note.exists():
        return _read(note)
    temporary = output / f".{name}.tmp"
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    digest, left_out = hashlib.blake2b(digest_size=16), []

    def image(row: int) -> bytes | DecodeError:
        try:
            return encode_image(source.read(row), shards.size, shards.quality)
        except DecodeError as e:
            return e
        except OSError as e:
            reason = e.strerror or e
            raise UserError(
                f"{source.describe(row)}: {reason}; run the command again to resume"
            ) from None

    with ThreadPoolExecutor() as pool:
        for first in range(rows.start, rows.stop, _AHEAD):
            some = range(first, min(first + _AHEAD, rows.stop))
            for row, result in zip(some, pool.map(image, some), strict=True):
                if isinstance(result, DecodeError):
                    left_out.append(f"{source.describe(row)}: {result}")
                    continue
                label = None if source.labels is None else int(source.labels[row])
                captions = source.captions[row] if source.captions is not None else ()
                file = source.names[row] if source.names is not None else ""
                data = encode(Record(result, label, tuple(captions), file))
                digest.update(data)
                writer.write(data)
            progress(some.stop)
    writer.close()
    part = {
        "name": name,
        "examples": len(rows) - len(left_out),
        "left_out": left_out,
        "blake2b": digest.hexdigest(),
    }
    write_json(note, part)
    temporary.replace(path)
    return part


def encode_image(image: bytes | np.ndarray, size: int, quality: int) -> bytes:
    """Return an image file: unchanged, or with its short side resized to `size`.

    Resized 8-bit pixels become a JPEG, others a PNG; wider pixels become a 16-bit PNG if they fit;
    pixels that fit no PNG, such as four bands or signed numbers, become an array in NumPy's format.

    Raises:
      DecodeError: the bytes are not an image.
    """
    if isinstance(image, bytes) and not size:
        native(image)  # raises
        return image
    pixels = image if isinstance(image, np.ndarray) else native(image)
    short = min(pixels.shape[:2])
    if not size or short <= size:
        return image if isinstance(image, bytes) else _lossless(pixels)
    height, width = (max(round(n * size / short), size) for n in pixels.shape[:2])
    pixels = resize_pixels(pixels, height, width)
    if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3):
        return _lossless(pixels)
    space = "GRAY" if pixels.shape[-1] == 1 else "RGB"
    return simplejpeg.encode_jpeg(pixels, quality, space, "444" if space == "RGB" else "Gray")


def resize_pixels(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an image of any number type to (height, width, C), keeping types that OpenCV has."""
    kind = pixels.dtype
    if kind not in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        kind = np.dtype(np.float32 if kind.itemsize <= 2 else np.float64)
    return averaged(pixels.astype(kind), height, width)


def _lossless(pixels: np.ndarray) -> bytes:
    """Encode pixels (H, W, C) as a PNG if it can hold them, else as a .npy file."""
    if pixels.dtype in (np.uint8, np.uint16) and pixels.shape[-1] in (1, 3):
        return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(pixels), (1, 0), allow_pickle=False)
    return file.getvalue()


def _note(output: Path, name: str) -> Path:
    """Return the path of a shard's manifest entry until all are written."""
    return output / f".{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = from_json(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; name another folder")
    return content
