"""Conversion of plain mappings (sections of a config, flags of a command) to frozen dataclasses,
with every key, type and range checked.

Every key must be declared by a dataclass: a misspelt key is an error that names its nearest
neighbours. A number must lie in the range that is declared with its type, a text must match its
pattern (`core.ranges`). A `Text` from a command line is converted to the declared type.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.plain import Text, literal
from ssl_jax.core.ranges import Inside, Matching, Range, Rising

T = TypeVar("T")
FLAGS = "--"  # in the place of a section's name: the keys are flags
ARGUMENTS = ""  # likewise: the keys are arguments of a function
_LARGEST = 2**63 - 1  # limit of integers in arrays


def build(cls: type[T], values: Mapping[str, Any], where: str, **fixed: Any) -> T:
    """Build the dataclass `cls` from `values`, and nested dataclasses from nested mappings.

    Args:
      cls: a dataclass.
      values: key -> value, a section of a config.
      where: the section's name, for messages ("optim"); or `FLAGS`, or `ARGUMENTS`.
      **fixed: fields that the caller supplies and a config may not set.

    Raises:
      UserError: an unknown key (with the nearest known ones), a missing key or a value of the wrong
        type or out of its range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in fixed}  # type: ignore[arg-type]
    hints = types_of(cls)
    out = dict(fixed)
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}; {suggest(key, fields)}")
        out[key] = _coerce(value, hints[key], _path(where, key), _default(fields[key]))
    for name, field in fields.items():
        if name not in out and _default(field) is dataclasses.MISSING:
            if where == FLAGS:
                raise UserError(f"--{name} is missing: {field.metadata['help']}")
            raise UserError(f"{where}: missing key {name!r}")
    return cls(**out)


def _path(where: str, key: str) -> str:
    """Return a key as the user writes it: `optim.lr` in a config, `--slices` for a flag, `slices`
    for an argument.
    """
    return f"--{key}" if where == FLAGS else f"{where}.{key}".removeprefix(".")


@typing.overload
def flag(text: str, **more: Any) -> Any: ...
@typing.overload
def flag(text: str, default: T, **more: Any) -> T: ...
def flag(text: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """Declare a flag in a dataclass: `slices: Count = flag("number of slices", 1)`.

    Args:
      text: its help.
      default: its default; a flag without one is required.
      **more: marks that `run.flags.parse` reads.
    """
    return dataclasses.field(default=default, metadata={"help": text, **more})


def check_used(section: Any, where: str, names: Collection[str] | None = None) -> None:
    """Refuse settings without effect: fields that differ from their default although the
    dataclass's `unused()` (name -> reason) lists them.

    Args:
      where: as in `build`.
      names: the fields to check; by default all.

    Raises:
      UserError: a field was set that has no effect.
    """
    default = defaults(type(section))
    unused: Mapping[str, str] = getattr(section, "unused", dict)()
    for name, why in unused.items():
        value = getattr(section, name)
        if (names is None or name in names) and value != default.get(name):
            raise UserError(f"{where}.{name}: {value!r} would change nothing: {why}")


def check(made: Any, where: str) -> None:
    """Check the ranges of a dataclass that may not come from `build`; called in `__post_init__`.

    Raises:
      UserError: a number out of its range.
    """
    for name, hint in types_of(type(made)).items():
        _check_ranges(getattr(made, name, None), hint, f"{where}.{name}")


def settle(declared: Callable, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert every `Text` in `values` to the plain value that its key takes; keep everything else.

    Args:
      declared: a dataclass or a function, whose fields or parameters are the keys.
      values: a section of a config, with nested ones.
      where: the section's name, for messages.

    Raises:
      UserError: a text that does not fit its key's type or range.
    """
    hints = types_of(declared)
    return {k: _settled(v, hints.get(k, Any), f"{where}.{k}") for k, v in values.items()}


def _settled(value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, Text):
        plain = _chosen(value, hint)
        _coerce(plain, hint, where, None)
        return plain
    if isinstance(value, Mapping):
        inside = next((h for h in options(hint) if dataclasses.is_dataclass(h)), None)
        if inside is not None:
            return settle(inside, value, where)  # type: ignore[arg-type]
        mappings = (o for o in options(hint) if typing.get_origin(o) in (dict, Mapping))
        hint = next((typing.get_args(mapping)[1] for mapping in mappings), Any)
        return {k: _settled(v, hint, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        args = next((a for o in options(hint) if (a := typing.get_args(o))), ())
        kinds = [args[0]] * len(value) if Ellipsis in args else [*args, *[Any] * len(value)]
        settled = (_settled(v, kinds[i], f"{where}[{i}]") for i, v in enumerate(value))
        return type(value)(settled)
    return value


def defaults(cls: type) -> dict[str, Any]:
    """Return name -> default of the fields of a dataclass that have one."""
    fields = {f.name: _default(f) for f in dataclasses.fields(cls)}
    return {name: value for name, value in fields.items() if value is not dataclasses.MISSING}


def types_of(declared: Any) -> dict[str, Any]:
    """Return name -> declared type, with ranges, of the fields or parameters of `declared`."""
    return _read_hints(declared)


@functools.cache
def _read_hints(declared: Any) -> dict[str, Any]:
    return typing.get_type_hints(declared, include_extras=True)


def _default(field: dataclasses.Field) -> Any:
    return (
        field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
    )


def described(hint: Any) -> str:
    """Describe a type in words, for help: "whole number of at least 1"; "" if it takes any text."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [str(a) for a in args[1:] if isinstance(a, Range) and a != Range(0)]
        return " ".join([described(args[0]), *limits])
    if origin in (types.UnionType, typing.Union):
        return "" if str in args else " or ".join(filter(None, map(described, args)))
    if origin is typing.Literal:
        return ", ".join(args)
    if origin is tuple:
        return "separated by commas"
    return {int: "whole number", float: "number"}.get(hint, "")


def options(hint: Any) -> list[Any]:
    """Return the types of a union, or the single type, without ranges."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return options(args[0])
    if origin in (types.UnionType, typing.Union):
        return [option for arg in args for option in options(arg)]
    return [hint]


def _chosen(text: Text, hint: Any) -> Any:
    """Convert `text` to a plain value for the declared type `hint`."""
    kinds, value = options(hint), literal(text)
    names = [name for k in kinds if typing.get_origin(k) is typing.Literal for name in k.__args__]
    for name in names:
        if str(text) == name or (value == name and isinstance(value, type(name))):
            return name
    if type(None) in kinds and (value is None or text.lower() == "none"):
        return None
    if isinstance(value, Mapping) and any(dataclasses.is_dataclass(k) for k in kinds):
        return value
    takes_text = str in kinds
    if takes_text and not isinstance(value, str):
        # "5" and "none" are texts too, unless another type of the union takes them.
        others = [k for k in kinds if k not in (str, type(None))]
        if not any(_fits(value, other) for other in others):
            return str(text)
    several = [k for k in kinds if typing.get_origin(k) is tuple and k.__args__[-1] is Ellipsis]
    scalar = value is not None and not isinstance(value, (tuple, list, Mapping))
    if several and scalar and not any(_fits(value, kind) for kind in kinds):
        # "knn,linear" and "5", as they are typed, are ("knn", "linear") and (5,).
        words = [word.strip() for word in text.split(",")] if value == text else []
        kind = several[0].__args__[0]
        return tuple(_chosen(Text(word), kind) for word in words if word) or (value,)
    return value


def _fits(value: Any, hint: Any) -> bool:
    try:
        _coerce(value, hint, "", None)
    except UserError:
        return False
    return True


def _coerce(value: Any, hint: Any, where: str, default: Any) -> Any:
    if isinstance(value, Text):
        value = _chosen(value, hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        made = _coerce(value, args[0], where, default)
        _check_ranges(made, hint, where)
        return made
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        sections = [arg for arg in args if dataclasses.is_dataclass(arg)]
        if isinstance(value, Mapping) and len(sections) == 1:  # its message names the key
            return _coerce(value, sections[0], where, default)
        errors: list[UserError] = []
        kinds = [a for a in args if a is not type(None)]
        for arg in kinds:
            try:
                return _coerce(value, arg, where, default)
            except UserError as e:
                word = typing.get_origin(arg) is typing.Literal and len(kinds) > 1
                if not word and str(e) != str(_wrong(value, arg, where)):
                    errors.append(e)  # the type fits, its content does not
        raise errors[0] if len(errors) == 1 else _wrong(value, hint, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, where)
        # A nested section changes only the keys that it names.
        if isinstance(default, hint):  # type: ignore[arg-type]
            value = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)} | dict(
                value
            )
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: expected one of {', '.join(map(repr, args))}, got {value!r}")
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
        kind = args[1] if len(args) == 2 else Any
        return {k: _coerce(v, kind, f"{where}.{k}", None) for k, v in value.items()}
    if hint is Any:
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and _is_number(value):
        if not math.isfinite(value):
            raise _wrong(value, hint, where)
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise _wrong(value, hint, where)
    if hint is int and not -_LARGEST <= value <= _LARGEST:
        raise UserError(
            f"{where}: expected an integer of at most {_LARGEST} in magnitude, got {value}"
        )
    return value


def _check_ranges(value: Any, hint: Any, where: str) -> None:
    """Check numbers, texts and tuples of them; `_coerce` checks the types."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for arg in args:
            _check_ranges(value, arg, where)
    elif origin is tuple and isinstance(value, tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        for i, (part, kind) in enumerate(zip(value, kinds, strict=False)):
            _check_ranges(part, kind, f"{where}[{i}]")
    elif origin is typing.Annotated and _is_number(value):
        kind = {int: "a whole number"}.get(args[0], "a number")
        for limits in (a for a in args[1:] if isinstance(a, Range)):
            if value not in limits:
                expected = f"{limits.low:g}" if limits.low == limits.high else f"{kind} {limits}"
                raise UserError(f"{where}: expected {expected}, got {value!r}")
    elif origin is typing.Annotated and isinstance(value, (str, tuple)):
        _check_ranges(value, args[0], where)
        for allowed in (a for a in args[1:] if isinstance(a, (Matching, Rising))):
            if value not in allowed:
                raise UserError(f"{where}: expected {allowed}, got {value!r}")
    elif origin is typing.Annotated:
        for inside in (a for a in args[1:] if isinstance(a, Inside)):
            if hasattr(value, inside.field):
                part = getattr(value, inside.field)
                _check_ranges(part, inside.hint, f"{where}.{inside.field}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(hint: Any) -> str:
    """Return the type as a user would write it, without ranges."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _name(args[0])
    if origin in (types.UnionType, typing.Union):
        return " | ".join(map(_name, args))
    if hint in (type(None), Ellipsis):
        return "None" if hint is not Ellipsis else "..."
    if origin is typing.Literal:
        return " | ".join(map(repr, args))
    if origin is None:
        return getattr(hint, "__name__", str(hint))
    return f"{getattr(origin, '__name__', origin)}[{', '.join(map(_name, args))}]"


def _wrong(value: Any, hint: Any, where: str) -> UserError:
    if isinstance(value, float) and not math.isfinite(value) and hint is float:
        return UserError(f"{where}: expected a finite number, got {value!r}")
    return UserError(f"{where}: expected {_name(hint)}, got {value!r}")
