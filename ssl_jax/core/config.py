"""From plain mappings (a section of a config) to frozen dataclasses, every key and type checked.

No key of a config is read that no dataclass declares: a misspelt key is an error that names its
  neighbours.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ssl_jax.core.errors import UserError, suggest

T = TypeVar("T")
_LARGEST = 2**63 - 1  # arrays hold no more


def build(cls: type[T], values: Mapping[str, Any], where: str, **given: Any) -> T:
    """Build the dataclass `cls` from `values`; nested dataclasses from nested mappings.

    Args:
      cls: a dataclass.
      values: key -> value, as a config section holds them.
      where: the section's name, for messages ("optim").
      **given: fields that the caller supplies and a config may not set.

    Raises:
      UserError: an unknown key (with the nearest known ones), a missing key or a value of the wrong
        type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in given}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    out = dict(given)
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}; {suggest(key, fields)}")
        out[key] = _coerce(value, hints[key], f"{where}.{key}", _default(fields[key]))
    required = [
        name
        for name, f in fields.items()
        if name not in out
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if required:
        raise UserError(f"{where}: missing key {required[0]!r}")
    return cls(**out)


def arguments(
    function: Callable, values: Mapping[str, Any], where: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """`values` as keyword arguments of `function`, checked as `build` checks those of a dataclass.

    Args:
      given: parameters that the caller supplies and a config may not set.

    Raises:
      UserError: an unknown key (with the nearest known ones) or a value of the wrong type.
    """
    hints = typing.get_type_hints(function)
    known = inspect.signature(function).parameters.keys() - set(given)
    for key in values:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}; {suggest(key, known)}")
    return {k: _coerce(v, hints.get(k, Any), f"{where}.{k}", None) for k, v in values.items()}


def defaults(cls: type) -> dict[str, Any]:
    """The fields of a dataclass that have a default, with it."""
    known = {f.name: _default(f) for f in dataclasses.fields(cls)}
    return {name: value for name, value in known.items() if value is not dataclasses.MISSING}


def _default(field: dataclasses.Field) -> Any:
    return (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )


def _coerce(value: Any, hint: Any, where: str, default: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        sections = [arg for arg in args if dataclasses.is_dataclass(arg)]
        if isinstance(value, Mapping) and len(sections) == 1:  # its own message names the key
            return _coerce(value, sections[0], where, default)
        for arg in (a for a in args if a is not type(None)):
            try:
                return _coerce(value, arg, where, default)
            except UserError:
                continue
        raise _wrong(value, hint, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, where)
        # A nested section changes only what it names.
        if isinstance(default, hint):  # type: ignore[arg-type]
            value = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)} | dict(
                value
            )
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple or hint is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise _wrong(value, hint, where)
        if not args:
            return tuple(value)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(
            _coerce(v, k, f"{where}[{i}]", None)
            for i, (v, k) in enumerate(zip(value, kinds, strict=True))
        )
    if (
        origin in (dict, Mapping)
        or hint is dict
        or (isinstance(origin, type) and issubclass(origin, Mapping))
    ):
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, where)
        return dict(value)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise _wrong(value, hint, where)
    if hint is int and not -_LARGEST <= value <= _LARGEST:
        raise UserError(f"{where}: {value} is too large a number")
    return value


def _wrong(value: Any, hint: Any, where: str) -> UserError:
    plain = typing.get_origin(hint) is None
    kind = (
        getattr(hint, "__name__", str(hint)) if plain else re.sub(r"ssl_jax[\w.]*\.", "", str(hint))
    )
    return UserError(f"{where}: expected {kind}, got {value!r}")
