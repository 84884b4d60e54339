"""The nearest other rows of each row of a file of features, by cosine."""

import json
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.embed import formats
from ssl_jax.embed.formats import Pieces
from ssl_jax.evals.features import MEMORY, Column
from ssl_jax.evals.protocols.knn import nearest

CHUNK_BYTES = 2**28  # of the rows that ask at once: they lie on the devices


def path_of(output: Path) -> Path:
    """Where the neighbours of the rows of `output` go."""
    return output.with_suffix(".neighbors.npz")


def write(output: Path, path: Path, k: int, mesh: Mesh | None = None) -> None:
    """Write the k nearest other rows of each row of the features in `output`, (N, D).

    The file holds `row` (N, k) int32, places in `output`, nearest first, `cosine` (N, k) float32,
    and `about`. Features pass over the devices in tiles; an .npz file is not read into memory.

    Raises:
      UserError: fewer than k other rows, features that are no vectors, or no room to write.
    """
    features = _rows(output)
    if features.ndim != 2:
        raise UserError(f"{output} holds features of places; neighbours are of whole images")
    if not 1 <= k < len(features):
        raise UserError(f"--neighbors={k}: {output} has {len(features)} rows; expected fewer")
    size = max(CHUNK_BYTES // (4 * features.shape[1]), 1)
    rows, cosines = Column(MEMORY // 16), Column(MEMORY // 16)
    for start in range(0, len(features), size):
        some = features[start : start + size]
        distributed.tick()
        near, found = without_self(*nearest(features, some, k + 1, mesh), start)
        cosines.append(near)
        rows.append(found)
    if not distributed.primary():
        return
    about = np.array(json.dumps({"k": k, "of": output.name, "about": formats.read_about(output)}))
    arrays = {
        "row": Pieces("<i4", (len(features), k), [rows.whole()]),
        "cosine": Pieces("<f4", (len(features), k), [cosines.whole()]),
        "about": Pieces(about.dtype, (), [about]),
    }
    try:
        with replacing(path) as temporary:
            formats.write_npz(temporary, arrays)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def without_self(
    cosines: np.ndarray, rows: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the k + 1 nearest rows (M, k + 1) of the rows `start`, `start` + 1, ... the k others.

    A row has no place among them where more than k equal ones come before it; then the last goes.
    """
    own = rows == np.arange(start, start + len(rows))[:, None]
    own[~own.any(1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return cosines[~own].reshape(shape), rows[~own].reshape(shape)


def usage(output: Path, path: Path) -> str:
    """How the file is used, for a person."""
    return (
        f"{path}: the nearest other rows of each row, nearest first\n"
        f"use:  near = np.load({str(path)!r})\n"
        f"      near['row'][i]      # rows of {output.name} nearest to its row i\n"
        "      near['cosine'][i]   # how near they are: 1 is the same direction"
    )


def _rows(output: Path) -> np.ndarray:
    """All features of a file, mapped where that is possible or they are large."""
    if output.suffix == ".npz":
        return formats.mapped(output, "features")
    column = Column(MEMORY)
    for some in formats.of(output).features(output):
        column.append(some)
    return column.whole()
