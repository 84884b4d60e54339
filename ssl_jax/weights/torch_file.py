"""PyTorch's files: only tensors are taken from them, and nothing in them is ever run."""

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

# Modules whose names the pickles of honest files ask for; which of their functions are called is
# for torch to say.
USUAL = {"torch", "collections", "_codecs"}
# Modules of settings, steps and scores that lie beside the tensors in many releases. They are not
# imported: whatever a pickle makes of them is an `_Inert`.
SETTINGS = {
    "addict", "argparse", "easydict", "lightning", "lightning_fabric", "ml_collections", "mmcv",
    "mmengine", "numpy", "omegaconf", "pathlib", "pytorch_lightning", "typing", "yacs",
}  # fmt: skip
BUILTINS = ("builtins", "__builtin__")  # today's name and that of protocol 2
PLAIN = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long",
    "object", "set", "str", "tuple", "unicode",
)  # fmt: skip
PICKLES = 4  # at the start of a file of the old format


class _Inert:
    """What stands for an object that is no tensor: whatever it is made of, it does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


class _Dictionary:
    """What stands for `collections.defaultdict`: a dictionary, which may hold tensors."""

    def __new__(cls, *args: Any) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors; those of nested dictionaries have "outer.inner" names; bfloat16 as float32.

    Raises:
      UserError: it asks for code, is broken, or torch is not installed.
    """
    names = list(dict.fromkeys(_asked(path)))
    for name in names:
        if not _is_harmless(name):
            raise UserError(f"{path} holds code ({name}); nothing of it was run")
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a PyTorch file, and torch, which reads it, is not installed here; where it "
            f"is: import torch, safetensors.torch as s; s.save_file(torch.load('{path.name}', "
            f"weights_only=True)['state_dict'], '{path.stem}.safetensors')"
        ) from None
    try:
        with torch.serialization.safe_globals(_inert(names)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever the unpickler meets
        asked = re.search(r"GLOBAL (\S+)", str(e))
        why = f"it asks for {asked[1]}" if asked else "torch cannot read it as weights only"
        raise UserError(
            f"{path} holds more than tensors, or is broken: {why}; nothing of it was run"
        ) from None
    found: dict[str, np.ndarray] = {}
    size = path.stat().st_size

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if not value.is_complex() and not value.is_quantized and not value.is_sparse:
                if value.numel() * value.element_size() > size:
                    raise UserError(f"{path}: {prefix} of shape {tuple(value.shape)} is no part")
                # NumPy has neither bfloat16 nor numbers of 8 bits.
                narrow = value.is_floating_point() and value.element_size() < 4
                value = value.float() if narrow and value.dtype != torch.float16 else value
                found[prefix] = value.detach().numpy()
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)

    try:
        walk("", loaded)
    except UserError as e:
        raise UserError(f"{e} of a file of {size:,} bytes") from None
    except Exception as e:  # dictionaries that hold themselves, tensors of kinds that NumPy lacks
        raise UserError(f"{path} is broken: {type(e).__name__}") from None
    if not found:
        raise UserError(f"{path} holds no tensors")
    return found


def _is_harmless(name: str) -> bool:
    """Whether a name is one of PyTorch's, or stands for settings or plain values."""
    module, _, kind = name.rpartition(".")
    if module in BUILTINS:
        return kind in PLAIN
    return module.split(".")[0] in USUAL | SETTINGS


def _inert(names: Iterable[str]) -> list[Callable | tuple[Callable, str]]:
    """For torch: what stands for each name whose module is none of torch's own affairs."""
    out: list[Callable | tuple[Callable, str]] = [
        (_Inert, f"{BUILTINS[0]}.{kind}") for kind in PLAIN
    ]
    out.append((_Dictionary, "collections.defaultdict"))
    return out + [(_Inert, name) for name in names if name.split(".")[0] in SETTINGS]


def _asked(path: Path) -> Iterator[str]:
    """What the pickles in a file ask for, "module.name", as far as it can be told by looking."""
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
            continue  # the rest of an old file are plain numbers; torch will say what is broken


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".pkl")]
                streams = [io.BytesIO(archive.read(name)) for name in names]
        except Exception as e:  # zlib.error, NotImplementedError, ...
            raise UserError(f"{path} is cut short or broken: {type(e).__name__}") from None
        yield from streams
        return
    with path.open("rb") as file:
        for _ in range(PICKLES):  # each reading goes on where the one before stopped
            yield file
