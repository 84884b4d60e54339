"""Networks in files of the user's own, which `backbone.name` gives by their path.

A file holds either a `Config` of the contract (docs/backbones.md), or a flax.nnx or flax.linen
module, whose arguments become the options of the section `backbone`.
"""

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from flax import linen, nnx

from ssl_jax.core import trust
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Finite, Integer
from ssl_jax.nets.adapters import SIDE, LinenNetwork, NnxNetwork, located
from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.layers import compute_dtype

CHANNELS = ("channels", "in_channels", "in_chans", "in_features")  # arguments: those of the images
FLAX = ("rngs", "parent", "name")  # arguments that are flax's
USUAL_SIDE = 224
HOLDABLE = (bool, int, float, str, tuple, type(None))  # defaults that a config can hold
PLAIN: Mapping[Any, Any] = {  # types that a config holds -> with their ranges
    int: Integer,
    float: Finite,
    bool: bool,
    str: str,
    type(None): type(None),
}


def config_class(path: Path, run: Path | None = None) -> type[Backbone]:
    """Run a file, unless it is in the folder of a run, and return the config of its network.

    Args:
      run: folder of a run, which may have no config.json yet.

    Raises:
      UserError: no such file, one in the folder of a run (`core.trust`), one that fails, or one
        that holds no network or several.
    """
    if not path.is_file():
        raise UserError(f"backbone.name: no network file {str(path)!r}")
    trust.check(path, run)
    return _config_class(path.absolute(), path.stat().st_mtime_ns)


@functools.cache
def _config_class(path: Path, changed: int) -> type[Backbone]:
    """Run a file once per change of it, so that its classes stay the same."""
    with located(path):
        module = trust.load_file(path, "backbone")
    config = getattr(module, "Config", None)
    if isinstance(config, type) and issubclass(config, Backbone):
        return config
    return _described(_network(module, path), path)


def _network(module: types.ModuleType, path: Path) -> Callable[..., Any]:
    """Find what builds the network: `make`, else the only module class, else the only function."""
    if hasattr(module, "make"):
        return module.make  # type: ignore[no-any-return]
    own = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    kinds = (nnx.Module, linen.Module)
    candidates: dict[str, Any]
    candidates = {n: v for n, v in own.items() if isinstance(v, type) and issubclass(v, kinds)}
    candidates = candidates or {n: v for n, v in own.items() if inspect.isfunction(v)}
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    names = ", ".join(candidates)
    has = f"several candidates, {names}" if names else "neither a flax module nor a Config"
    raise UserError(
        f"backbone.name: {path} holds {has}; add a line make = YourNetwork, its class or a function"
    )


class Arguments(NamedTuple):
    """Arguments of a network: fields for the options, the name of the one for the channels."""

    fields: list[tuple[str, Any, Any]]
    channels: str
    dtype: bool


@dataclass(frozen=True)
class OwnNetwork(Backbone):
    """Base of the configs that are made from a flax module; its fields are the module's arguments.

    Attributes:
      path: the file.
      build: class or function that builds the module.
      arguments: what it takes.
    """

    path: ClassVar[Path]
    build: ClassVar[Callable[..., Any]]
    arguments: ClassVar[Arguments]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype is not None and not self.arguments.dtype:
            raise UserError(
                f"backbone.dtype: {self.path.name} takes no dtype; add that argument to its "
                "network, or leave this out"
            )

    @property
    def title(self) -> str:
        return self.path.stem

    @property
    def draws(self) -> bool:
        return False

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        names = [name for name, _, _ in self.arguments.fields]
        values = {name: getattr(self, name) for name in names}
        side = values.get(SIDE) or USUAL_SIDE
        build = type(self).build
        parameters = _parameters(build)
        values = {name: value for name, value in values.items() if name in parameters}
        if self.arguments.channels:
            values[self.arguments.channels] = channels
        if self.arguments.dtype and self.dtype is not None:
            values["dtype"] = compute_dtype(self.dtype)
        with located(self.path):
            network = build(**values, **({"rngs": rngs} if "rngs" in parameters else {}))
            if isinstance(network, linen.Module):
                return LinenNetwork(self.path, network, (1, side, side, channels), rngs)
            if isinstance(network, nnx.Module):
                return NnxNetwork(self.path, network)
            raise UserError(f"it builds a {type(network).__name__}, not a flax module")


def _described(build: Callable[..., Any], path: Path) -> type[Backbone]:
    """Make the config of a network from the arguments of what builds it.

    Raises:
      UserError: an argument that a config cannot set, or whose name means something else there.
    """
    if not callable(build):
        raise UserError(f"backbone.name: {path}: make is a {type(build).__name__}, not a network")
    is_linen = isinstance(build, type) and issubclass(build, linen.Module)
    fields, channels, has_dtype = [], "", False
    annotated = build.__init__ if isinstance(build, type) and not is_linen else build  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(annotated)
    except Exception:  # annotations may be anything
        hints = {}
    for name, parameter in _parameters(build).items():
        if name in FLAX or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in CHANNELS and not channels:
            channels = name
        elif name == "dtype":
            has_dtype = True
        else:
            default = _plain(parameter.default)
            hint = _option(hints.get(name), default)
            required = parameter.default is parameter.empty
            settable = hint is not None and isinstance(default, HOLDABLE)
            if not required and not settable:
                continue  # a function, an initialiser, ...: it keeps its default
            if hint is None or hasattr(Backbone, name):
                why = "has no type" if hint is None else "means something else in a config"
                raise UserError(
                    f"backbone.name: {path}: the argument {name!r} of its network {why}; declare "
                    "it as a number, a text or a tuple, or give it another name"
                )
            value = dataclasses.MISSING if required else default
            fields.append((name, hint, dataclasses.field(default=value)))
    if is_linen and SIDE not in [name for name, _, _ in fields]:
        fields.append((SIDE, Count, dataclasses.field(default=USUAL_SIDE)))
    namespace = {
        "path": path,
        "build": staticmethod(build),
        "arguments": Arguments(fields, channels, has_dtype),
        "__doc__": inspect.getdoc(build),
    }
    return dataclasses.make_dataclass(
        "Config", fields, bases=(OwnNetwork,), namespace=namespace, frozen=True, kw_only=True
    )


def _parameters(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function, or of a class's `__init__`."""
    if not isinstance(build, type):
        return dict(inspect.signature(build).parameters)
    _self, *parameters = inspect.signature(build.__init__).parameters.values()  # type: ignore[misc]
    return {parameter.name: parameter for parameter in parameters}


def _plain(default: Any) -> Any:
    """Return a default as a config holds it."""
    return tuple(map(_plain, default)) if isinstance(default, (list, tuple)) else default


def _option(hint: Any, default: Any) -> Any:
    """Return the type of an option from its annotation, else from its default; None if a config
    cannot hold it.
    """
    if hint is not None:
        return _annotated(hint)
    if isinstance(default, tuple) and default:
        first, *others = {_option(None, value) for value in default}
        return None if others or first is None else tuple[first, ...]  # type: ignore[valid-type]
    return None if default is None else PLAIN.get(type(default))


def _annotated(hint: Any) -> Any:
    """Return an annotation with the ranges that a config needs; None for other types."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return hint
    if origin is typing.Annotated:
        return hint if _annotated(args[0]) else None
    parts = [part if part is Ellipsis else _annotated(part) for part in args]
    if None in parts:
        return None
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, parts)
    if origin is tuple:
        return tuple[tuple(parts)]  # type: ignore[misc]
    if origin in (list, Sequence):
        return tuple[parts[0], ...]  # type: ignore[valid-type]
    return PLAIN.get(hint)
