"""Data sets by name: `digits`, `folder:/path`, `parquet:/glob`, ...: a file here, a scheme.

A scheme is a module of this package with `load(path, split) -> Source` and, where its data may
themselves set a part aside for evaluation, `held_out(path) -> Source | None`, and where `path` is
not that of files, `absolute(path) -> str`; it is found by its name, so a new one is one new file.
"""

import contextlib
import importlib
import pkgutil
import re
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Literal

from absl import logging

from ssl_jax.core import credentials
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data import files
from ssl_jax.data.listing import EXTENSIONS
from ssl_jax.data.sources.base import ArraySource, Source

__all__ = ["ArraySource", "Source", "absolute", "held_out", "open_source", "schemes"]

_ENDINGS = {  # of files whose scheme need not be written
    "npz": (".npz",),
    "parquet": (".parquet",),
    "tar": (".tar", ".tar.gz", ".tgz"),
    "array_record": (".array_record",),
    "folder": (".txt", ".csv", ".lst", ".list"),
}
_LOOKED_AT = 1000  # files of a folder, to tell images from tables
_PLURAL = re.compile(r"^(1 (?:\S+ )?)(file|image|clip|label)s\b")
_logged: set[str] = set()
_later: ContextVar[list[str] | None] = ContextVar("later", default=None)


def schemes() -> tuple[str, ...]:
    """Names of the known schemes."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def open_source(spec: str, split: Literal["train", "eval"] = "train") -> Source:
    """Open the data set that `spec` ("scheme" or "scheme:path") names.

    A path that exists needs no scheme: it is a folder, or a file by its ending.

    `split` matters only to data that define one (`digits`, `tfds:NAME`, a folder that holds `train`
    and `val`); other data are whole under both names. What they leave out is logged once.

    Raises:
      UserError: an unknown scheme, a password in a URL, or data that are missing, empty or of the
        wrong form.
    """
    module, path = _scheme(spec)
    with _told(spec):
        source = module.load(path, split)
    for line in left_out(source):
        text = f"{source.name}: left out {line}"
        if (later := _later.get()) is not None:
            later.append(text)
        else:
            _log_once(text)
    return source


def left_out(source: Source) -> list[str]:
    """What lies there and is not used, a line per reason: "1 file of other endings (1 .heic)"."""
    lines = [f"{count:,} {why}" for why, count in source.left_out.items()]
    return [_PLURAL.sub(r"\1\2", line) if line.startswith("1 ") else line for line in lines]


@contextlib.contextmanager
def left_out_is_shown() -> Iterator[None]:
    """Within, what is left out is logged only if an error comes before it can be shown."""
    texts: list[str] = []
    token = _later.set(texts)
    try:
        yield
    except Exception:
        for text in texts:
            _log_once(text)
        raise
    finally:
        _later.reset(token)


def _log_once(text: str) -> None:
    if text not in _logged:
        _logged.add(text)
        logging.warning("%s", text)


def absolute(spec: str) -> str:
    """`spec` with its scheme and with absolute paths, so that it means the same anywhere; what
    cannot be opened stays as it is.
    """
    try:
        module, path = _scheme(spec)
        made = getattr(module, "absolute", files.absolute)(path)
    except (UserError, OSError, RuntimeError, ValueError):
        return spec
    return f"{module.__name__.rpartition('.')[2]}:{made}" if made else spec


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
    if name not in schemes() and (guess := _guess(spec)):
        name, path = guess, spec
    if name not in schemes():
        known = ", ".join(s if s == "digits" else f"{s}:PATH" for s in schemes())
        hint = suggest(name, schemes()) if name else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        path_hint = "no such file or folder; " if "/" in spec and ":" not in spec else ""
        raise UserError(f"unknown data {spec!r}: {path_hint}expected one of {known}{hint}")
    return importlib.import_module(f"{__name__}.{name}"), path


def _guess(spec: str) -> str | None:
    """The scheme of a path that exists: of a folder by the files in it, of a file by its ending."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        path = Path(spec.partition("#")[0]).expanduser() if spec else Path("/nowhere")
        if path.is_file():
            scheme = _by_ending(path.name)
            return scheme if scheme in schemes() else None
        if path.is_dir():
            kinds = {_by_ending(f.name) for f in islice(path.iterdir(), _LOOKED_AT) if f.is_file()}
            tables = kinds & {"parquet", "tar", "array_record"}
            return tables.pop() if len(tables) == 1 and kinds <= tables | {None} else "folder"
    return None


def _by_ending(name: str) -> str | None:
    if ".array_record" in name:
        return "array_record"
    if name.lower().endswith(EXTENSIONS):
        return "image"
    return next((k for k, ends in _ENDINGS.items() if name.lower().endswith(ends)), None)
