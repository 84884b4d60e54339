"""Data sets by name: `digits`, `npz:/path.npz`, `folder:/path`.

A scheme is a module of this package with `load(path, split) -> Source` and `SPLITS`, the splits
that its data define themselves; it is found by its name, so a new one is one new file.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Literal

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.sources.base import ArraySource, Source

__all__ = ["ArraySource", "Source", "held_out", "open_source", "schemes"]


def schemes() -> tuple[str, ...]:
    """Names of the known schemes."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def open_source(spec: str, split: Literal["train", "eval"] = "train") -> Source:
    """Open the data set that `spec` ("scheme" or "scheme:path") names.

    `split` matters only to data that define one (`digits`); other data are whole under both names.

    Raises:
      UserError: an unknown scheme, or data that are missing, empty or of the wrong form.
    """
    module, path = _scheme(spec)
    return module.load(path, split)


def held_out(spec: str) -> Source | None:
    """The evaluation part that the data set `spec` itself defines; None where it defines none."""
    module, path = _scheme(spec)
    return module.load(path, "eval") if "eval" in module.SPLITS else None


def _scheme(spec: str) -> tuple[ModuleType, str]:
    name, _, path = spec.partition(":")
    if name not in schemes():
        known = "digits, " + ", ".join(f"{s}:PATH" for s in schemes() if s != "digits")
        hint = suggest(name, schemes()) if name else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        raise UserError(f"unknown data {spec!r}: expected one of {known}{hint}")
    return importlib.import_module(f"{__name__}.{name}"), path
