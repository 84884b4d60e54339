"""Frozen features of a data set, from an encoder or from its raw pixels."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.evals.checks import check_finite
from ssl_jax.nets.features import Stage
from ssl_jax.nets.layers import at_least_float32
from ssl_jax.objectives.base import Encoder, Probe

Array = jax.Array
Batches = Iterable[tuple[np.ndarray, np.ndarray]]
SELECTED = 4096  # rows of a file that are copied at once
CHUNK = 128  # images per forward pass for batch statistics
# Bytes of collected rows that are held in memory.
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


# The encoder is an argument, not a closure: one compile for every step's weights.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _read(
    encoder: Encoder, view: View, probes: tuple[Probe, ...], images: Array, index: Array
) -> tuple[Array, ...]:
    outputs = encoder.features(prepare(view, images))
    return tuple(probe.read(outputs) for probe in probes)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def maps(encoder: Encoder | None, view: View, number: int, patch: int, images: Array) -> Array:
    """Return the map (B, h, w, D) float32 of a stage for uint8 images (B, H, W, C); see
    `stage_maps`.
    """
    return stage_maps(encoder, view, (number,), patch, images)[0]


def stage_maps(
    encoder: Encoder | None,
    view: View,
    numbers: Sequence[int],
    patch: int,
    images: Array,
    class_token: bool = False,
) -> list[Array]:
    """Return the maps (B, h, w, D) float32 of stages for uint8 images (B, H, W, C), in one forward
    pass. If the encoder is None, each map holds the normalised pixels of each patch, `patch` pixels
    a side.

    Args:
      class_token: the class token of a stage is joined to each position of its map, (B, h, w, 2 D).

    Raises:
      UserError: no such stage, no class token, or patches that do not divide the images.
    """
    images = prepare(view, images)
    if encoder is not None:
        outputs = encoder.features(images)
        return [_map(outputs.stage(number), class_token) for number in numbers]
    batch, height, width, channels = images.shape
    if height % patch or width % patch:
        raise UserError(f"patches of {patch} pixels do not divide images of {height} x {width}")
    cells = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return [cells.swapaxes(2, 3).reshape(batch, height // patch, width // patch, -1)] * len(numbers)


def _map(stage: Stage, class_token: bool) -> Array:
    whole = at_least_float32(stage.whole_map)
    if not class_token:
        return whole
    if stage.cls is None:
        raise UserError("readout=project: the network has no class token; set readout=ignore")
    token = at_least_float32(stage.cls)[:, None, None]
    return jnp.concatenate([whole, jnp.broadcast_to(token, whole.shape)], axis=-1)


def extract(
    encoder: Encoder | None,
    view: View,
    probes: Sequence[Probe],
    batches: Batches,
    mesh: jax.sharding.Mesh,
) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """Extract the features (N, D) float32 at each of `probes` and the index (N,) of the examples in
    `batches`, in every process.

    Args:
      encoder: its features are extracted; if it is None, the raw pixels in [0, 1].
      batches: this process's rows of (images (B, H, W, C) uint8, index (B,)), B a multiple of the
        devices; rows of index -1 are padding and are dropped.
    """
    if encoder is not None:
        return collect(functools.partial(_read, encoder, view, tuple(probes)), batches, mesh)
    pixels, index = collect(lambda images, _: images, batches, mesh)
    rows = pixels.astype(np.float32).reshape(len(pixels), -1) / 255
    return [rows] * len(probes), index


def collect(
    fn: Callable[[Array, Array], Any], batches: Batches, mesh: jax.sharding.Mesh
) -> tuple[Any, np.ndarray]:
    """Apply a jitted `fn` to the batches (images, index) over the mesh; return its results for all
    images, an array or a tree of arrays, and the index; see `extract`.

    Results of more than `MEMORY` bytes are stored in a temporary file, mapped into memory.

    Raises:
      NotMeasurable: floats of an image that are not finite.
    """
    placed, indices = sharding.batch_sharding(mesh), []
    columns: list[Column] = []
    tree: Any = None
    for images, index in batches:
        distributed.tick()
        images, index = to_global((images, index), placed)
        outputs, index = gather((fn(images, index), index))
        leaves, tree = jax.tree.flatten(outputs)
        for x in leaves:
            check_finite(x[index >= 0], "features")
        columns = columns or [Column(MEMORY // len(leaves)) for _ in leaves]
        for column, x in zip(columns, leaves, strict=True):
            column.append(x[index >= 0])
        indices.append(index[index >= 0])
    return jax.tree.unflatten(tree, [column.whole() for column in columns]), np.concatenate(indices)


def select(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the rows (N, ...) where `mask` (N,) is true; those of a file, in a file."""
    if not isinstance(rows, np.memmap):
        return rows[mask]
    column = Column(MEMORY)
    for start in range(0, len(rows), SELECTED):
        part = slice(start, start + SELECTED)
        column.append(rows[part][mask[part]])
    return column.whole()


class Column:
    """Rows that come batch by batch, in memory up to `most` bytes, in a file beyond them."""

    def __init__(self, most: int) -> None:
        self._parts: list[np.ndarray] = []
        self._left = most
        self._file: IO[bytes] | None = None

    def append(self, rows: np.ndarray) -> None:
        self._parts.append(rows)
        self._left -= rows.nbytes
        if self._left >= 0:
            return
        try:
            if self._file is None:  # it goes with its last user
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            for part in self._parts:
                part.tofile(self._file)
        except OSError as e:
            raise UserError(
                f"cannot write features larger than memory to {tempfile.gettempdir()}: {e}; set "
                "TMPDIR to another folder, or lower evals.max_train"
            ) from None
        self._parts = [rows[:0]]

    def whole(self) -> np.ndarray:
        """Return all rows."""
        if self._file is None:
            return np.concatenate(self._parts)
        self._file.flush()
        (empty,) = self._parts
        rows = np.memmap(self._file, empty.dtype, "r")
        return rows.reshape(-1, *empty.shape[1:])


def recompute_statistics(
    encoder: Encoder, view: View, images: np.ndarray, mesh: jax.sharding.Mesh
) -> Encoder:
    """Return the encoder with the batch-norm statistics of uint8 images (N, H, W, C), all of which
    every process holds, for a fair measurement of untrained weights.

    The images pass once, in equal chunks of at most `CHUNK` (the last one is filled up from the
    first); mean and variance are those over all chunks, so a single chunk gets exactly its own.
    Neither the devices nor the batch size of evaluations change the result.
    """
    count = -(-len(images) // CHUNK)
    size = -(-len(images) // count)
    chunks = np.resize(np.arange(len(images)), (count, size))
    whole = sharding.replicated(mesh)
    placed = sharding.batch_sharding(mesh) if size % mesh.size == 0 else whole

    # A step returns `momentum * old + (1 - momentum) * batch statistics`: linear in old. Everything
    # else is computed on the host, where nothing is compiled.
    def updated(stats: dict, rows: np.ndarray) -> dict:
        args = place(stats, whole), view, place(images[rows], placed)
        return jax.device_get(_train_statistics(encoder, *args))  # type: ignore[no-any-return]

    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), encoder.stats)
    part = updated(zeros, chunks[0])
    momentum = jax.tree.map(_momentum, updated(part, chunks[0]), part)
    old = jax.tree.map(lambda p, m: p / (1 - m), part, momentum)  # close to all chunks'
    per_chunk = [
        jax.tree.map(lambda n, o, m: (n - m * o) / (1 - m), updated(old, rows), old, momentum)
        for rows in chunks
    ]
    return dataclasses.replace(encoder, stats=place(_over_chunks(per_chunk), whole))


def _momentum(updated: np.ndarray, old: np.ndarray) -> float:
    """Solve `updated = momentum * old + old` for the momentum; 0 if `old` is zero."""
    size = float(np.abs(old).sum())
    return round(float(np.abs(updated - old).sum()) / size, 4) if size else 0.0


def _over_chunks(stats: Sequence[Any]) -> Any:
    """Combine the batch statistics of equal chunks: a `var` beside a `mean` is the mean of the
    variances plus the variance of the means.
    """
    if not isinstance(stats[0], dict):
        return np.mean(stats, axis=0, dtype=np.float64).astype(np.float32)
    merged = {name: _over_chunks([chunk[name] for chunk in stats]) for name in stats[0]}
    if set(merged) == {"mean", "var"} and not isinstance(stats[0]["mean"], dict):
        merged["var"] = merged["var"] + np.var([chunk["mean"] for chunk in stats], axis=0)
    return merged


@functools.partial(jax.jit, static_argnums=2)
def _train_statistics(encoder: Encoder, stats: dict, view: View, images: Array) -> dict:
    return encoder.net.apply(encoder.params, stats, prepare(view, images), train=True)[1]
