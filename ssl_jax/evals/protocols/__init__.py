"""Evaluation protocols by name; one per module.

A protocol is a module of this package that defines one subclass of `evals.base.Protocol`; its name
is the module's. Modules are found by name, so a new protocol is one new file.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterable

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.evals.base import Protocol
from ssl_jax.evals.titles import titles_of


@functools.cache
def known() -> dict[str, type[Protocol]]:
    """Return name -> class of all protocols, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: _class_of(name) for name in names}


def check(name: str) -> str:
    """Return `name`, of a protocol.

    Raises:
      UserError: there is none of this name; the message suggests others.
    """
    if name not in known():
        raise UserError(f"unknown evaluation {name!r}; {suggest(name, known())}")
    return name


def _class_of(name: str) -> type[Protocol]:
    """Return the protocol that the module `name` of this package defines.

    Raises:
      TypeError: it defines none, or several.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Protocol)
        and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__}: expected one Protocol, got {len(classes)}")
    return classes[0]


def titles(names: Iterable[str], families: bool = True) -> dict[str, str]:
    """Return number -> its name in tables of those of `names` that have one, in reading order: the
    scores that decide a verdict come before those of a last resort, and both before numbers that
    are no scores.

    Args:
      families: see `titles_of`.
    """
    protocols = sorted(known().values(), key=lambda p: (not p.scores, p.last_resort))
    declared = {name: title for protocol in protocols for name, title in protocol.titles.items()}
    return titles_of(names, declared, families)


def title(name: str) -> str:
    """Return the name in tables of a number; its own name without one."""
    return titles([name]).get(name, name)


def scores() -> tuple[str, ...]:
    """Return the prefixes of all numbers that are scores; see `Protocol.scores`."""
    return tuple(prefix for protocol in known().values() for prefix in protocol.scores)


def decisive(last_resort: bool = False) -> tuple[str, ...]:
    """Return the prefixes of the scores that decide a verdict; with `last_resort` of those that do
    only where there is no other; see `Protocol.decides`.
    """
    protocols = (p for p in known().values() if p.last_resort == last_resort)
    return tuple(prefix for protocol in protocols for prefix in protocol.decides)
