"""PyTorch's files: only tensors are taken from them, and nothing in them is ever run."""

import argparse
import contextlib
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_jax.core.errors import UserError

# Modules whose names the pickles of honest files ask for; which of their functions are called is
# for torch to say.
USUAL = {"torch", "collections", "numpy", "argparse", "_codecs"}
PICKLES = 4  # at the start of a file of the old format


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors; those of nested dictionaries have "outer.inner" names; bfloat16 as float32.

    Raises:
      UserError: it asks for code, is broken, or torch is not installed.
    """
    for name in _asked(path):
        if name.split(".")[0] not in USUAL:
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
        # Namespaces of settings lie beside the tensors in many releases, and run nothing.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # whatever the unpickler meets
        asked = re.search(r"GLOBAL (\S+)", str(e))
        why = f"it asks for {asked[1]}" if asked else "torch cannot read it as weights only"
        raise UserError(
            f"{path} holds more than tensors, or is broken: {why}; nothing of it was run"
        ) from None
    found: dict[str, np.ndarray] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            if not value.is_complex() and not value.is_quantized and not value.is_sparse:
                value = value.float() if value.dtype == torch.bfloat16 else value
                found[prefix] = value.detach().numpy()
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)

    walk("", loaded)
    if not found:
        raise UserError(f"{path} holds no tensors")
    return found


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
        except (ValueError, EOFError, UnicodeDecodeError):
            continue  # the rest of an old file are plain numbers; torch will say what is broken


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            yield from [io.BytesIO(archive.read(name)) for name in names]
        return
    with path.open("rb") as file:
        for _ in range(PICKLES):  # each reading goes on where the one before stopped
            yield file
