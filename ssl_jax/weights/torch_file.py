"""PyTorch's files: only tensors are read from them, and their code is never run."""

import io
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_jax.core.errors import UserError

# Modules to which the pickles of honest files refer; torch decides which of their functions may be
# called.
USUAL = {"torch", "collections", "_codecs"}
# Modules of settings, steps and scores that many releases store beside the tensors. They are not
# imported: all their objects in a pickle become an `_Inert`.
SETTINGS = {
    "addict", "argparse", "easydict", "lightning", "lightning_fabric", "ml_collections", "mmcv",
    "mmengine", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "typing", "yacs",
}  # fmt: skip
BUILTINS = ("builtins", "__builtin__")  # the current name and that of protocol 2
PLAIN = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long",
    "object", "set", "str", "tuple", "unicode",
)  # fmt: skip
PICKLES = 4  # pickles at the start of a file of the old format


class _Inert:
    """Placeholder for an object that is not a tensor: it accepts any arguments and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


class _Dictionary:
    """Replacement for `collections.defaultdict`: a dictionary, which may hold tensors."""

    def __new__(cls, *args: Any) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


def read(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors, with "outer.inner" names for nested dictionaries, bfloat16 as float32.

    Raises:
      UserError: the file refers to code or is corrupt, or torch is not installed.
    """
    names = list(dict.fromkeys(_references(path)))
    for name in names:
        if not _is_harmless(name):
            raise UserError(f"{path} holds code ({name}), which was not run")
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file, but torch is not installed; install it, or convert the "
            f"file elsewhere: import torch, safetensors.torch as s; s.save_file(torch.load("
            f"'{path.name}', weights_only=True)['state_dict'], '{path.stem}.safetensors')"
        ) from None
    try:
        with torch.serialization.safe_globals(_inert(names)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever the unpickler meets
        match = re.search(r"GLOBAL (\S+)", str(e))
        why = f"it refers to {match[1]}" if match else "torch cannot read it with weights_only=True"
        raise UserError(
            f"{path} is corrupt or holds more than tensors: {why}; none of its code was run"
        ) from None
    tensors: dict[str, np.ndarray] = {}
    size = path.stat().st_size

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if not value.is_complex() and not value.is_quantized and not value.is_sparse:
                if value.numel() * value.element_size() > size:
                    raise UserError(
                        f"{path}: {prefix} of shape {tuple(value.shape)} does not fit into a file "
                        f"of {size:,} bytes"
                    )
                # NumPy has neither bfloat16 nor 8-bit floats.
                narrow = value.is_floating_point() and value.element_size() < 4
                value = value.float() if narrow and value.dtype != torch.float16 else value
                tensors[prefix] = value.detach().numpy()
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)

    try:
        walk("", loaded)
    except UserError:
        raise
    except Exception as e:  # dictionaries that hold themselves, tensors of types that NumPy lacks
        raise UserError(f"{path} is corrupt: {type(e).__name__}") from None
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return tensors


def _is_harmless(name: str) -> bool:
    """Tell whether a name belongs to PyTorch, or stands for settings or plain values."""
    module, _, kind = name.rpartition(".")
    if module in BUILTINS:
        return kind in PLAIN
    return module.split(".")[0] in USUAL | SETTINGS


def _inert(names: Iterable[str]) -> list[Callable | tuple[Callable, str]]:
    """Return torch's safe globals: a placeholder for each name of a module of settings."""
    out: list[Callable | tuple[Callable, str]] = [
        (_Inert, f"{BUILTINS[0]}.{kind}") for kind in PLAIN
    ]
    out.append((_Dictionary, "collections.defaultdict"))
    return out + [(_Inert, name) for name in names if name.split(".")[0] in SETTINGS]


def _references(path: Path) -> Iterator[str]:
    """Yield the names to which the pickles in a file refer, "module.name", as far as they can be
    determined without running them.
    """
    for stream in _pickles(path):
        strings = ["", ""]
        try:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif operation.name == "STACK_GLOBAL":
                    yield ".".join(strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
        except Exception:
            continue  # the rest of an old file is plain numbers; torch reports what is corrupt


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".pkl")]
                streams = [io.BytesIO(archive.read(name)) for name in names]
        except Exception as e:  # zlib.error, NotImplementedError, ...
            raise UserError(f"{path} is truncated or corrupt: {type(e).__name__}") from None
        yield from streams
        return
    with path.open("rb") as file:
        for _ in range(PICKLES):  # each reader continues where the previous one stopped
            yield file
