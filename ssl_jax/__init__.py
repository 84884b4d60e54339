"""Self-supervised visual representation learning in JAX.

`ssl_jax.load("W")` returns the encoder of a run, to be called on images (docs/python.md).
Everything else is imported from its own module: `from ssl_jax.losses.ntxent import ntxent` imports
neither networks nor data.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_jax.embed.encoder import ImageEncoder
    from ssl_jax.run.load import load

__all__ = ["ImageEncoder", "load"]

_PLACES = {"ImageEncoder": "ssl_jax.embed.encoder", "load": "ssl_jax.run.load"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
