"""Weights exported as an Orbax checkpoint, in a folder of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError, reason
from ssl_jax.core.files import replacing
from ssl_jax.core.plain import from_json
from ssl_jax.core.tree import named_leaves
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.weights import files, folders
from ssl_jax.weights.files import TensorFile

ARRAYS = "arrays"  # key of the metadata: dtype and shape of each tensor


def write(folder: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a checkpoint of step 0 with this metadata.

    Raises:
      UserError: the folder exists, or cannot be written.
    """
    if folder.exists():
        raise UserError(f"--output={folder} exists; name a new folder")
    arrays = {name: [array.dtype.name, list(array.shape)] for name, array in tensors.items()}
    try:
        with replacing(folder) as temporary, Checkpoints(temporary) as checkpoints:
            state: Any = _nested(tensors)
            checkpoints.save(0, state, dict(metadata) | {ARRAYS: json.dumps(arrays)})
            checkpoints.finish()
    except (OSError, UserError) as e:
        raise UserError(f"cannot write --output={folder}: {reason(e)}") from None


def is_exported(folder: Path) -> bool:
    """Tell whether a folder looks like a checkpoint that `write` made."""
    return folder.is_dir() and (folder / "0").is_dir()


def is_weights(path: Path) -> bool:
    """Tell whether to read a path as weights: a file, an exported checkpoint, or a folder that is
    not a run's. If such a folder holds no weights, the error of `read_any` names what it expects.
    """
    if path.is_file() or is_exported(path):
        return True
    if not path.is_dir() or (path / "checkpoints").is_dir():
        return False
    try:
        return not (path / "config.json").exists() or "config" in folders.beside(path / "_")
    except UserError:
        return False  # reading the run reports what is wrong with its config.json


def read_any(path: Path) -> TensorFile:
    """Read the tensors of a file, of a folder that `write` made, or of a folder of files.

    Raises:
      UserError: it cannot be read, or the folder holds something else.
    """
    if not is_exported(path):
        if path.is_dir() and not is_weights(path):
            raise UserError(
                f"{path} is the folder of a run; write its weights: ssl-jax export --workdir={path}"
            )
        return files.read(path)
    with Checkpoints(path, reader=True) as checkpoints:
        try:
            metadata = checkpoints.metadata(0)
            arrays = from_json(metadata.pop(ARRAYS))
            shapes = {
                name: jax.ShapeDtypeStruct(s, jnp.dtype(d)) for name, (d, s) in arrays.items()
            }
            abstract: Any = _nested(shapes)
        except UserError:
            raise
        except Exception:  # the metadata may be anything
            raise UserError(
                f"{path} is a checkpoint, but `ssl-jax export` did not write it"
            ) from None
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed: Any = jax.tree.map(lambda _: here, abstract)
        restored = checkpoints.restore(0, abstract, placed)
    texts = {name: text for name, text in metadata.items() if isinstance(text, str)}
    return TensorFile(named_leaves(jax.device_get(restored)), texts)


def _nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Convert {"a/b": x} to {"a": {"b": x}}."""
    out: dict[str, Any] = {}
    for name, value in tensors.items():
        *outer, last = name.split("/")
        at = out
        for part in outer:
            at = at.setdefault(part, {})
        at[last] = value
    return out
