"""Data sets by name: `digits`, `folder:/path`, `parquet:/glob`, ...: a file here, a scheme.

A scheme is a module of this package with `load(path, split) -> Source` and, where its data may
themselves set a part aside for evaluation, `held_out(path) -> Source | None`; it is found by its
name, so a new one is one new file.
"""

import contextlib
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Literal

from ssl_jax.core import credentials
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.sources.base import ArraySource, Source

__all__ = ["ArraySource", "Source", "held_out", "open_source", "schemes"]


def schemes() -> tuple[str, ...]:
    """Names of the known schemes."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def open_source(spec: str, split: Literal["train", "eval"] = "train") -> Source:
    """Open the data set that `spec` ("scheme" or "scheme:path") names.

    `split` matters only to data that define one (`digits`, `tfds:NAME`); other data are whole under
    both names.

    Raises:
      UserError: an unknown scheme, a password in a URL, or data that are missing, empty or of the
        wrong form.
    """
    module, path = _scheme(spec)
    with _told(spec):
        return module.load(path, split)


def held_out(spec: str) -> Source | None:
    """The evaluation part that the data set `spec` itself defines; None where it defines none."""
    module, path = _scheme(spec)
    with _told(spec):
        return module.held_out(path) if hasattr(module, "held_out") else None


@contextlib.contextmanager
def _told(spec: str) -> Iterator[None]:
    """What a system says of a name or a file that it does not like, as a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, UnicodeError) as e:  # RuntimeError: of ~NOBODY
        reason = getattr(e, "strerror", None) or " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"{spec}: {reason}") from None


def _scheme(spec: str) -> tuple[ModuleType, str]:
    credentials.refuse(spec, "data")
    name, _, path = spec.partition(":")
    if name not in schemes():
        known = ", ".join(s if s == "digits" else f"{s}:PATH" for s in schemes())
        hint = suggest(name, schemes()) if name else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        raise UserError(f"unknown data {spec!r}: expected one of {known}{hint}")
    return importlib.import_module(f"{__name__}.{name}"), path
