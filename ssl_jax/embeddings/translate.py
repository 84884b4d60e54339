"""Translations of a data set, written as a folder of PNG images: resumable, all or nothing."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import jax
import numpy as np

from ssl_jax.augment import recipes
from ssl_jax.core import files, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, to_global
from ssl_jax.core.versions import versions
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.embeddings import shards
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.job import ImagesJob
from ssl_jax.objectives.base import Encoder

METADATA = "translations.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TranslationJob(ImagesJob):
    """One folder of translations. Until it is complete, its content is in OUTPUT.parts."""

    batch_size: int = 16

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the images depend on."""
        encoder = self.encoder
        assert encoder.translator is not None
        both = {"backbone": encoder.params, "translator": encoder.translator.params}
        return {
            "data": self.source.name,
            "fingerprint": self.source.fingerprint(),
            "examples": len(self.source),
            "weights": replace(encoder, params=both).digest(),
            "size": encoder.view.size,
            "recipe": recipes.plain(encoder.view.recipe),
            "versions": versions("ssl-jax", "jax"),
        }

    @cached_property
    def names(self) -> list[str]:
        """Path of each translation in the folder: that of its source, with the ending .png."""
        names = self.source.names
        numbers = [f"{i:06d}.png" for i in range(len(self.source))]
        if names is None:
            return numbers
        paths = [_safe(name) for name in names]
        short = [path.with_suffix(".png") for path in paths]
        count = Counter(short)
        unique = [
            p if count[p] == 1 else path.with_name(f"{path.name}.png")
            for p, path in zip(short, paths, strict=True)
        ]
        return [str(p) for p in unique] if len({*unique}) == len(unique) else numbers


def translate(
    job: TranslationJob, progress: Progress = lambda done, computed: None
) -> dict[str, Any]:
    """Write the translations to `job.output`; those of an interrupted run are reused.

    The images are cropped centrally and resized to the size of training. The folder appears when it
    is complete, with `translations.json`: the settings, the number of images and the corrupt ones,
    which have no translation. Nothing that is there already is changed.

    Args:
      progress: called with the number of finished images, and of those translated by this call.

    Returns:
      The content of `translations.json`.

    Raises:
      UserError: an encoder that translates no images; an output that cannot be written or holds
        something else; too many corrupt images, or none.
    """
    if job.encoder.translator is None:
        raise UserError(
            "translate: this run translates no images; use one of a method that does (ssl-jax "
            "methods)"
        )
    if job.encoder.channels not in (1, 3):
        raise UserError(f"translate: images of {job.encoder.channels} bands are no PNG images")
    if not len(job.source):
        raise UserError(f"{job.source.name} holds no images")
    if not vacant(job.output):
        metadata = shards.read_json(job.output / METADATA)
        if metadata is None:
            raise UserError(
                f"--output={job.output}: it exists and holds no translations; choose another folder"
            )
        expected = shards.as_before(metadata, job.settings, job.source.matches)
        shards.check_same(metadata, expected, str(job.output), "remove it", "translations")
        if missing := [n for n in metadata["images"] if not (job.output / n).is_file()]:
            raise UserError(
                f"--output={job.output}: {missing[0]} is missing; remove the folder to write all "
                "translations again"
            )
        return metadata
    with shards.opened(job.output, job.settings) as parts:
        folder = parts.folder / "images"
        try:
            folder.mkdir(exist_ok=True)
            written = _write(job, folder, progress)
            metadata = job.settings | {
                "origin": job.encoder.origin,
                "images": [job.names[i] for i in written],
                "left_out": [
                    job.source.describe(i) for i in sorted({*range(len(job.source))} - {*written})
                ],
            }
            files.write_json(folder / METADATA, metadata)
            folder.rename(job.output)
        except OSError as e:
            raise UserError(
                f"cannot write {job.output}: {e.strerror or e}; finished images are kept in "
                f"{parts.folder}"
            ) from None
    shards.remove(job.output)
    return shards.read_json(job.output / METADATA) or {}


def _write(job: TranslationJob, folder: Path, progress: Progress) -> list[int]:
    """Translate the images that are not in `folder` yet; return the examples that are there now."""
    for path in list(folder.rglob("*")):
        if files.is_temporary(path.name):  # of a run that was killed
            path.unlink()
    rows = np.arange(len(job.source), dtype=np.int32)
    exists = np.array([(folder / name).is_file() for name in job.names])
    missing = rows[~exists]
    finished, computed = int(exists.sum()), 0
    progress(finished, 0)
    written = rows[exists].tolist()
    encoder, placed = job.encoder.bare, sharding.batch_sharding(job.mesh)
    batches = eval_arrays(
        job.source,
        encoder.view.size,
        rows=missing,
        channels=encoder.channels,
        batch=job.batch,
        threads=job.threads,
        max_bad_fraction=job.max_bad_fraction,
    )
    for crops, index in batches if len(missing) else ():
        with jax.set_mesh(job.mesh):
            images = gather(_translated(encoder, to_global(crops, placed)))
        for image, example in zip(
            recipes.pixels(encoder.view, images), index.tolist(), strict=True
        ):
            if example >= 0:
                _save(folder / job.names[example], image)
                written.append(example)
        computed = min(computed + job.batch, len(missing))
        progress(finished + computed, computed)
    return sorted(written)


@jax.jit
def _translated(encoder: ImageEncoder, crops: jax.Array) -> jax.Array:
    return Encoder.translate(encoder, recipes.prepare(encoder.view, crops))


def _save(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, C) uint8 of one or three channels as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    with files.replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())


def vacant(output: Path) -> bool:
    """Return whether `output` does not exist or is an empty folder."""
    return not os.path.lexists(output) or (output.is_dir() and not any(output.iterdir()))


def _safe(name: str) -> PurePosixPath:
    """Return a name of a data set as a path inside of a folder: names in archives may lead out."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", "//")]
    return PurePosixPath(*parts) if parts else PurePosixPath("image")
