"""Nearest other rows of each row of a file of features, by cosine."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.embeddings import formats
from ssl_jax.embeddings.formats import Pieces
from ssl_jax.evals.features import MEMORY, Column
from ssl_jax.evals.neighbours import nearest

CHUNK_BYTES = 2**28  # bytes of the query rows that are on the devices at once


def path_of(output: Path) -> Path:
    """Return the path for the neighbours of the rows of `output`."""
    return output.with_suffix(".neighbors.npz")


def write(output: Path, path: Path, k: int, mesh: Mesh | None = None) -> None:
    """Write the k nearest other rows of each row of the features in `output`, (N, D).

    The file holds `row` (N, k) int32, rows of `output`, nearest first, `cosine` (N, k) float32,
    and `about`. Features pass through the devices in tiles; an .npz file is not read into memory.

    Raises:
      UserError: fewer than k other rows, features that are not vectors, or a full disk.
    """
    features = rows_of(output)
    if features.ndim != 2:
        raise UserError(
            f"{output}: expected one vector per image, got feature maps of places; neighbours need "
            "pooled features"
        )
    if not 1 <= k < len(features):
        raise UserError(
            f"--neighbors={k}: expected fewer than the {len(features)} rows of {output}"
        )
    rows, cosines = Column(MEMORY // 16), Column(MEMORY // 16)
    for near_cosines, near_rows in blocks(features, k, mesh):
        cosines.append(near_cosines)
        rows.append(near_rows)
    if not distributed.primary():
        return
    description = {"k": k, "of": output.name, "about": formats.read_metadata(output)}
    metadata = np.array(json.dumps(description))
    arrays = {
        "row": Pieces("<i4", (len(features), k), [rows.whole()]),
        "cosine": Pieces("<f4", (len(features), k), [cosines.whole()]),
        "about": Pieces(metadata.dtype, (), [metadata]),
    }
    try:
        with replacing(path) as temporary:
            formats.write_npz(temporary, arrays)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def blocks(
    features: np.ndarray, k: int, mesh: Mesh | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the cosines (n, k) and the rows (n, k) of the k nearest other rows of each row of
    features (N, D), nearest first, for one block of rows after another.

    A block of queries is on the devices at once, `CHUNK_BYTES`, and all rows pass by it in tiles.
    """
    size = max(CHUNK_BYTES // (4 * features.shape[1]), 1)
    for start in range(0, len(features), size):
        queries = features[start : start + size]
        distributed.tick()
        yield without_self(*nearest(features, queries, k + 1, mesh), start)


def without_self(
    cosines: np.ndarray, rows: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Drop the rows `start`, `start` + 1, ... from their own k + 1 nearest rows (M, k + 1).

    Where more than k equal rows come before a row, it is not among its own nearest rows; then the
    last one is dropped.
    """
    own = rows == np.arange(start, start + len(rows))[:, None]
    own[~own.any(1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return cosines[~own].reshape(shape), rows[~own].reshape(shape)


def usage(output: Path, path: Path) -> str:
    """Explain how to use the file."""
    return (
        f"{path}: the nearest other rows of each row, nearest first\n"
        f"use:  near = np.load({str(path)!r})\n"
        f"      near['row'][i]      # the rows of {output.name} nearest to its row i\n"
        "      near['cosine'][i]   # their cosines: 1 is the same direction"
    )


def rows_of(output: Path) -> np.ndarray:
    """Read all features of a file, memory-mapped if the format allows it or they are large."""
    if output.suffix == ".npz":
        return formats.mapped(output, "features")
    column = Column(MEMORY)
    for part in formats.of(output).features(output):
        column.append(part)
    return column.whole()
