"""Files of named tensors: safetensors, NumPy's .npz, and PyTorch's, whose code is never run."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.core.plain import from_json
from ssl_jax.weights import folders, torch_file

FORMATS = (".safetensors", ".npz")  # formats that can be written
METADATA = "__metadata__"  # the entry of an .npz that holds its metadata
BFLOAT16 = "__bfloat16__"  # its key for the names of bfloat16 tensors, which NumPy writes as bytes
TAR, ZIP, PICKLE = b"ustar", b"PK", b"\x80"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class TensorFile:
    """Content of a file.

    Attributes:
      tensors: tensors by name; "outer.inner" for nested dictionaries of PyTorch.
      metadata: strings by name; {} if the format has none.
      beside: settings of the network in files beside this one; see `folders.beside`.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(path: Path | str) -> TensorFile:
    """Read all tensors of a file, of the files in an index, or of a folder with either.

    The format is recognised by the first bytes, not by the name.

    Raises:
      UserError: no such file, a file of another format, or a corrupt one; a PyTorch file that holds
        more than tensors, or torch is not installed.
    """
    path = folders.weights_in(Path(path))
    if path.name.endswith(folders.INDEX):
        tensors: dict[str, np.ndarray] = {}
        for part, names in folders.parts(path).items():
            content = _single(part).tensors
            missing = [name for name in names if name not in content]
            if missing:
                raise UserError(f"{path}: {part.name} holds no tensor {missing[0]}")
            tensors |= {name: content[name] for name in names}
        return TensorFile(tensors, {}, folders.beside(path))
    single = _single(path)
    return TensorFile(single.tensors, single.metadata, folders.beside(path))


def _single(path: Path) -> TensorFile:
    """Read one file."""
    try:
        with path.open("rb") as file:
            start, size = file.read(512), file.seek(0, 2)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    if not start:
        raise UserError(f"{path} is empty")
    # Before PyTorch's: the length of a header may begin with the byte that pickles begin with.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return _read_safetensors(path)
    if start[:2] == ZIP:
        return _read_zip(path)
    if start[:1] == PICKLE or start[257:262] == TAR:
        return TensorFile(torch_file.read(path), {})
    text = start.lstrip().lower()
    if text[:1] == b"<":
        raise UserError(f"{path} is a web page, not weights; download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not weights; run git lfs pull")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    raise UserError(
        f"{path} is not a file of weights; expected .safetensors, .npz, a PyTorch .pth, or an "
        f"index of several files, *{folders.INDEX}"
    )


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a .safetensors or .npz file atomically.

    Raises:
      UserError: another suffix, or the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")
    # safetensors ignores strides.
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
    entry = np.array(json.dumps(dict(metadata) | {BFLOAT16: narrow}))
    with path.open("wb") as file:  # np.savez would append .npz to a path
        np.savez(file, allow_pickle=False, **tensors, **{METADATA: entry})  # type: ignore[arg-type]


# The decoders below read untrusted bytes. Whatever they raise (zlib.error, NotImplementedError,
# MemoryError, RecursionError, ...) means that the file cannot be read.


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, file.metadata() or {})
    except Exception as e:
        raise UserError(f"{path} is not a complete safetensors file: {_line(e)}") from None


def _read_zip(path: Path) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return TensorFile(torch_file.read(path), {})
            if not names or not all(name.endswith(".npy") for name in names):
                raise UserError(f"{path} is a zip file, but neither an .npz nor a PyTorch file")
            _check_sizes(archive, path)
        with np.load(path, allow_pickle=False) as data:
            arrays = dict(data)
    except UserError:
        raise
    except zipfile.BadZipFile as e:
        raise UserError(f"{path} is truncated or corrupt: {_line(e)}") from None
    except Exception as e:
        raise UserError(f"{path} is corrupt or holds more than plain arrays: {_line(e)}") from None
    metadata = _metadata(path, arrays.pop(METADATA, None))
    for name in metadata.pop(BFLOAT16, ()):
        array = arrays.get(name) if isinstance(name, str) else None
        if array is None or array.dtype.itemsize != 2:
            raise UserError(f"{path}: {METADATA} lists {name!r}, which is not a bfloat16 tensor")
        arrays[name] = array.view(ml_dtypes.bfloat16)
    for name, array in arrays.items():
        if array.dtype.kind not in "biufV" or array.dtype.fields:
            raise UserError(f"{path}: {name} holds {array.dtype}, not numbers")
    return TensorFile(arrays, metadata)


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Compare the sizes of the arrays of an .npz with the bytes in the file and with this machine's
    memory, before anything is allocated.
    """
    total = 0
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)  # type: ignore[arg-type]
            if version not in HEADERS:
                raise UserError(f"{path}: {name} has an unknown version of .npy, {version}")
            shape, _, dtype = HEADERS[version](member)  # type: ignore[arg-type]
            size, available = dtype.itemsize * math.prod(shape), info.file_size - member.tell()
        if dtype.hasobject:
            raise UserError(f"{path} holds more than plain arrays: {name} holds Python objects")
        if size != available:
            raise UserError(
                f"{path} is corrupt: {name} of shape {shape} needs {size:,} bytes, "
                f"but {available:,} are in the file"
            )
        total += size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > memory:
        raise UserError(
            f"{path} unpacks to {total / 2**30:.0f} GiB; this machine has {memory / 2**30:.0f} GiB"
        )


def _metadata(path: Path, entry: np.ndarray | None) -> dict[str, Any]:
    """Read the metadata of an .npz of ours: its strings, and its list of bfloat16 tensors."""
    if entry is None or entry.dtype.kind != "U" or entry.shape != ():
        return {}
    try:
        content = from_json(str(entry))
    except ValueError as e:
        raise UserError(f"{path}: {METADATA} is not JSON: {_line(e)}") from None
    valid = isinstance(content, dict) and all(
        isinstance(value, list if name == BFLOAT16 else str) for name, value in content.items()
    )
    if not valid:
        raise UserError(f"{path}: {METADATA} is not a JSON object of strings")
    return content  # type: ignore[no-any-return]


def _line(error: Exception) -> str:
    """Return the first line of the error's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
