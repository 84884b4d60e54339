"""Any data set to sharded ArrayRecord files, in parts that a killed run need not make again."""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.plain import from_json
from ssl_jax.data.decode import DecodeError, averaged, native
from ssl_jax.data.records import Record, encode
from ssl_jax.data.sources.base import Source

MANIFEST = "manifest.json"
_AHEAD = 256  # images that are decoded side by side


@dataclass(frozen=True)
class Shards:
    """How the records are written.

    Attributes:
      size: the short side of every larger image becomes so many pixels; 0 leaves the files as
        they are.
      quality: of the JPEGs that resizing makes.
      per_shard: examples of a file.
    """

    size: int = 0
    quality: int = 90
    per_shard: int = 10_000

    def __post_init__(self) -> None:
        if self.size < 0 or not 1 <= self.quality <= 100 or self.per_shard < 1:
            raise UserError("prepare: size >= 0, 1 <= quality <= 100 and per_shard >= 1 must hold")


def prepare(
    source: Source,
    output: Path,
    shards: Shards,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write `source` to `output`/data-00000-of-00001.array_record ... and `output`/manifest.json.

    A shard is written under another name and renamed when it is whole; a second run with the same
    source and options makes only what is missing. Images that cannot be decoded are left out and
    named in the manifest.

    Args:
      progress: called with the number of examples done.

    Returns:
      The manifest: counts, class names, options, the source's fingerprint, a digest of each shard.

    Raises:
      UserError: `output` holds other data, or cannot be written, or no image could be decoded.
    """
    asked = {
        "source": source.name,
        "fingerprint": source.fingerprint(),
        "size": shards.size,
        "quality": shards.quality,
        "per_shard": shards.per_shard,
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        begun = output / f".{MANIFEST}.begun"
        before = next((p for p in (output / MANIFEST, begun) if p.exists()), None)
        if before is None and any(not p.name.startswith(".") for p in output.iterdir()):
            raise UserError(f"{output} holds other files; name an empty folder")
        if before is not None:
            found = _read(before)
            if source.matches(str(found.get("fingerprint"))):  # of an older version
                asked["fingerprint"] = found["fingerprint"]
            if any(found.get(key) != value for key, value in asked.items()):
                raise UserError(f"{output} holds other data or options; name another folder")
        else:
            write_json(begun, asked)
        parts = []
        count = -(-len(source) // shards.per_shard)
        names = [f"data-{k:05d}-of-{count:05d}.array_record" for k in range(count)]
        for k, name in enumerate(names):
            rows = range(k * shards.per_shard, min((k + 1) * shards.per_shard, len(source)))
            parts.append(_shard(source, output, name, rows, shards, progress))
            progress(rows.stop)
    except OSError as e:
        raise UserError(f"cannot write to {output}: {e.strerror or e}") from None
    manifest = asked | {
        "examples": sum(part["examples"] for part in parts),
        "class_names": list(source.class_names),
        "shards": parts,
    }
    if not manifest["examples"]:
        raise UserError(f"{source.name}: none of {len(source)} images can be decoded")
    write_json(output / MANIFEST, manifest)
    begun.unlink(missing_ok=True)
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
    """One file and what the manifest says of it; read back where an earlier run finished it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    path, note = output / name, _note(output, name)
    if (output / MANIFEST).exists():
        done = _read(output / MANIFEST).get("shards", [])
        found = next((part for part in done if part.get("name") == name), None)
        if found is None:
            raise UserError(f"{output / MANIFEST} lacks {name}; name another folder")
        return found
    if path.exists() and note.exists():
        return _read(note)
    temporary = output / f".{name}.tmp"
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    digest, left_out = hashlib.blake2b(digest_size=16), []

    def image(row: int) -> bytes | DecodeError:
        try:
            return encoded(source.read(row), shards.size, shards.quality)
        except DecodeError as e:
            return e
        except OSError as e:
            reason = e.strerror or e
            raise UserError(f"{source.describe(row)}: {reason}; run again to go on") from None

    with ThreadPoolExecutor() as pool:
        for first in range(rows.start, rows.stop, _AHEAD):
            some = range(first, min(first + _AHEAD, rows.stop))
            for row, made in zip(some, pool.map(image, some), strict=True):
                if isinstance(made, DecodeError):
                    left_out.append(f"{source.describe(row)}: {made}")
                    continue
                label = None if source.labels is None else int(source.labels[row])
                captions = source.captions[row] if source.captions is not None else ()
                called = source.names[row] if source.names is not None else ""
                data = encode(Record(made, label, tuple(captions), called))
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


def encoded(image: bytes | np.ndarray, size: int, quality: int) -> bytes:
    """An image file: as it came, or with its short side brought to `size`.

    Pixels of 8 bits become a JPEG if they were resized and a PNG if not; wide ones a PNG of 16 bits
    where they fit; what no PNG holds, as four bands or signed numbers, an array of NumPy's format.

    Raises:
      DecodeError: the bytes are no image.
    """
    if isinstance(image, bytes) and not size:
        native(image)  # raises
        return image
    pixels = image if isinstance(image, np.ndarray) else native(image)
    short = min(pixels.shape[:2])
    if not size or short <= size:
        return image if isinstance(image, bytes) else _lossless(pixels)
    height, width = (max(round(n * size / short), size) for n in pixels.shape[:2])
    pixels = resized(pixels, height, width)
    if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3):
        return _lossless(pixels)
    space = "GRAY" if pixels.shape[-1] == 1 else "RGB"
    return simplejpeg.encode_jpeg(pixels, quality, space, "444" if space == "RGB" else "Gray")


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, C) of an image of any number type, which it keeps if OpenCV has it."""
    kind = pixels.dtype
    if kind not in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        kind = np.dtype(np.float32 if kind.itemsize <= 2 else np.float64)
    return averaged(pixels.astype(kind), height, width)


def _lossless(pixels: np.ndarray) -> bytes:
    """A PNG where it can hold these pixels (H, W, C), else a .npy file."""
    if pixels.dtype in (np.uint8, np.uint16) and pixels.shape[-1] in (1, 3):
        return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(pixels), (1, 0), allow_pickle=False)
    return file.getvalue()


def _note(output: Path, name: str) -> Path:
    """What is known of a shard until all are written."""
    return output / f".{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = from_json(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; name another folder")
    return found
