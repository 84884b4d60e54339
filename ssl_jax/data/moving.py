"""Frames of clips with masks of what moves in them, written as folders of images and masks."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.plain import from_json
from ssl_jax.data.decode import DecodeError, decode
from ssl_jax.data.prepare import MANIFEST, Shards, encode_image
from ssl_jax.data.sources.base import Source
from ssl_jax.data.voting import segment

LEAST, MOST = 10, 110  # frames of a shot that is segmented; of longer ones every n-th (videoseg)
_AHEAD = 4  # clips in memory, segmented in parallel


def prepare_masks(
    source: Source,
    output: Path,
    shards: Shards,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write the frames of the clips to `output`/images and their masks to `output`/masks, as the
    data set folder:`output`/images reads them, and `output`/manifest.json.

    Each clip is one shot. A note per finished clip lets a second run of the same command continue
    an interrupted one.

    Args:
      shards: size and quality of the frames.
      progress: called with the number of finished clips.

    Returns:
      The manifest: counts, options, the source's fingerprint, a reason for each clip left out.

    Raises:
      UserError: a source of images; `output` holds other data, or cannot be written; no clip has
        masks.
    """
    if source.lengths is None:
        raise UserError(f"prepare: masks of motion need clips, and {source.name} holds images")
    if (source.lengths < LEAST).all():
        raise UserError(
            f"prepare: the longest clip of {source.name} has {source.lengths.max()} frames; masks "
            f"of motion need at least {LEAST}"
        )
    request = {
        "source": source.name,
        "fingerprint": source.fingerprint(),
        "size": shards.size,
        "quality": shards.quality,
    }
    try:
        for name in ("images", "masks", ".clips"):
            (output / name).mkdir(parents=True, exist_ok=True)
        begun = output / ".clips" / "request.json"
        if begun.exists() and from_json(begun.read_text()) != request:
            raise UserError(f"{output} holds other data or options; name another folder")
        write_json(begun, request)
        notes = []
        for i, note in enumerate(_each(source, output, shards), 1):
            notes.append(note)
            progress(i)
    except OSError as e:
        raise UserError(f"cannot write to {output}: {e.strerror or e}") from None
    left_out = [note["left_out"] for note in notes if note["left_out"]]
    manifest = request | {"examples": sum(n["frames"] for n in notes), "left_out": left_out}
    if not manifest["examples"]:
        raise UserError(f"{source.name}: no clip has masks of motion; the first: {left_out[0]}")
    write_json(output / MANIFEST, manifest)
    return manifest


def _each(source: Source, output: Path, shards: Shards) -> Iterator[dict[str, Any]]:
    """Write the clips in order and yield the note of each."""

    def write_clip(clip: int) -> dict[str, Any]:
        file = output / ".clips" / f"{clip:06d}.json"
        if not file.exists():
            write_json(file, _clip(source, clip, output, shards))
        note: dict[str, Any] = from_json(file.read_text())
        return note

    clips = iter(range(len(source)))
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(clips, _AHEAD)):
            yield from pool.map(write_clip, batch)


def _clip(source: Source, clip: int, output: Path, shards: Shards) -> dict[str, Any]:
    """Write the frames and the masks of one clip and return its note."""
    assert source.lengths is not None
    length = int(source.lengths[clip])
    where = source.describe(clip)
    if length < LEAST:
        return _left_out(f"{where}: {length} frames, and masks of motion need {LEAST}")
    numbers = range(0, length, length // MOST + 1)
    try:
        files = [
            encode_image(source.read_frame(clip, t), shards.size, shards.quality) for t in numbers
        ]
        frames = np.stack([decode(file, 3) for file in files])
    except (DecodeError, ValueError) as e:
        return _left_out(f"{where}: {e}")
    masks = segment(frames)
    if masks is None:
        return _left_out(f"{where}: no dominant motion, from which others could differ")
    for number, file, mask in zip(numbers, files, masks, strict=True):
        name = f"{clip:06d}-{number:05d}"
        ending = ".jpg" if file.startswith(b"\xff\xd8") else ".png"
        (output / "images" / f"{name}{ending}").write_bytes(file)
        cv2.imwrite(str(output / "masks" / f"{name}.png"), mask)
    return {"frames": len(files), "left_out": ""}


def _left_out(reason: str) -> dict[str, Any]:
    return {"frames": 0, "left_out": reason}
