"""Files of named tensors: safetensors, NumPy's .npz, and PyTorch's, no code of which is run."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.weights import torch_file

FORMATS = (".safetensors", ".npz")  # that can be written
ABOUT = "__metadata__"  # the entry of an .npz that holds its metadata
BFLOAT16 = "__bfloat16__"  # and therein the tensors that are that: NumPy writes them as bytes
TAR, ZIP, PICKLE = b"ustar", b"PK", b"\x80"


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
      tensors: by name; those of nested dictionaries of PyTorch have "outer.inner" names.
      metadata: texts by name; {} where the format has none.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


def read(path: Path | str) -> TensorFile:
    """All tensors of a file, whose format is told from its first bytes, not from its name.

    Raises:
      UserError: no such file, a file of another format, or a broken one; a PyTorch file that holds
        more than tensors, or torch is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file of weights in it")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    if not start:
        raise UserError(f"{path} is empty")
    if start[:2] == ZIP:
        return _read_zip(path)
    if start[:1] == PICKLE or start[257:262] == TAR:
        return TensorFile(torch_file.read(path), {})
    text = start.lstrip().lower()
    if text[:1] == b"<":
        raise UserError(f"{path} is a web page, not weights; download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of Git LFS, not weights; run git lfs pull")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    raise UserError(f"{path} is no file of weights; give .safetensors, .npz or a PyTorch .pth")


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors or .npz; `path` holds the old file or the whole new one.

    Raises:
      UserError: a name that ends otherwise, or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: give a file that ends in {' or '.join(FORMATS)}")
    # safetensors takes the memory as it lies.
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        with replacing(path) as temporary:
            if path.suffix == ".safetensors":
                safetensors.numpy.save_file(tensors, temporary, dict(metadata))
            else:
                _write_npz(temporary, tensors, metadata)
    except (OSError, safetensors.SafetensorError) as e:
        raise UserError(f"cannot write {path}: {_line(e)}") from None


def _write_npz(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    narrow = sorted(name for name, array in tensors.items() if array.dtype == ml_dtypes.bfloat16)
    about = json.dumps(dict(metadata) | {BFLOAT16: narrow})
    with path.open("wb") as file:  # to a path np.savez would add .npz
        np.savez(file, allow_pickle=False, **tensors, **{ABOUT: np.array(about)})  # type: ignore[arg-type]


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, file.metadata() or {})
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise UserError(f"{path} is no whole safetensors file: {_line(e)}") from None


def _read_zip(path: Path) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as e:
        raise UserError(f"{path} is cut short or broken: {_line(e)}") from None
    if any(name.endswith("data.pkl") for name in names):
        return TensorFile(torch_file.read(path), {})
    if not names or not all(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is an archive, but neither an .npz nor a PyTorch file")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = dict(data)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as e:
        raise UserError(f"{path} holds more than plain arrays, or is broken: {_line(e)}") from None
    about = arrays.pop(ABOUT, None)
    metadata: dict[str, Any] = {}
    if about is not None and about.dtype.kind == "U" and about.shape == ():
        try:
            metadata = json.loads(str(about))
        except ValueError:
            raise UserError(f"{path}: its entry {ABOUT} is no JSON") from None
    for name in metadata.pop(BFLOAT16, []):
        arrays[name] = arrays[name].view(ml_dtypes.bfloat16)
    return TensorFile(arrays, metadata)


def _line(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
