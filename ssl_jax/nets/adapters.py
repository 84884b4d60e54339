"""Modules of flax.nnx and flax.linen as backbones: their mode of training, their variables and
their outputs as the contract has them.
"""

import contextlib
import functools
import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.features import Features
from ssl_jax.nets.outputs import as_features

SIDE = "image_size"  # option of a linen network: the side of the images its weights are made for
MODES = {"train": True, "training": True, "is_training": True}
MODES |= {"deterministic": False, "use_running_average": False}  # the opposite of training


@contextlib.contextmanager
def located(path: Path, hint: str = "") -> Iterator[None]:
    """Turn every error of the code in a file into one line that names the file and its line."""
    try:
        yield
    except UserError as e:
        raise (e if str(path) in str(e) else UserError(f"{path}: {e}")) from None
    except Exception as e:
        frames = traceback.extract_tb(e.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        place = f", line {lines[-1]}" if lines else ""
        first = (str(e).strip().splitlines() or [""])[0][:300]
        message = f"{path}{place}: {type(e).__name__}: {first}" + (f". {hint}" if hint else "")
        raise UserError(message) from e


class NnxNetwork(nnx.Module):
    """A module of flax.nnx as a backbone."""

    def __init__(self, path: Path, network: nnx.Module):
        self.path, self.network = path, network
        rest: Any = nnx.split(network, nnx.Param, nnx.BatchStat, ...)[-1]
        is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
        others = jax.tree.leaves(rest, is_leaf=is_variable)
        if kinds := sorted({type(x).__name__ for x in others}):
            raise UserError(
                f"its network holds {', '.join(kinds)}; only nnx.Param and nnx.BatchStat are "
                "supported: leave out dropout, and do not store rngs"
            )
        _check_types(nnx.state(network))

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to the features that the network returns."""
        with located(self.path):
            if train:
                self.network.train()
            else:
                self.network.eval()
            out = self.network(images, **_mode(self.network, train))  # type: ignore[operator]
            return as_features(out, len(images), stages)


class LinenNetwork(nnx.Module):
    """A module of flax.linen as a backbone; `shape` is that of the images it is initialised on."""

    def __init__(self, path: Path, network: linen.Module, shape: Sequence[int], rngs: nnx.Rngs):
        self.path, self.shape = path, tuple(shape)
        self.apply = functools.partial(network.apply)  # static, so it must have a hash
        self.mode = functools.partial(_mode, network)
        images = jnp.zeros(self.shape, jnp.float32)
        made = linen.meta.unbox(network.init(rngs.params(), images, **_mode(network, False)))
        if more := sorted(set(made) - {"params", "batch_stats"}):
            raise UserError(f"its network holds {', '.join(more)}; only parameters and batch_stats")
        _check_types(made)
        self.network = _variables(made.get("params", {}), made.get("batch_stats", {}))

    def __call__(self, images: Array, *, train: bool, stages: bool = False) -> Features:
        """Map images (B, H, W, C) to the features that the network returns."""
        params, stats = (
            nnx.to_pure_dict(nnx.state(self.network, kind)) for kind in (nnx.Param, nnx.BatchStat)
        )
        updates = ["batch_stats"] if train and stats else False
        own = self.shape[1:3]
        hint = f"its weights are made for images of {own[0]} px; set backbone.{SIDE}"
        with located(self.path, "" if images.shape[1:3] == own else hint):
            variables = {"params": params, "batch_stats": stats}
            out = self.apply(variables, images, mutable=updates, **self.mode(train))
            if updates:
                out, updated = out
                _write(self.network, updated["batch_stats"])
            return as_features(out, len(images), stages)


def _mode(network: Any, train: bool) -> dict[str, Any]:
    """Return the arguments that tell a network whether it is trained, if it takes any."""
    taken = inspect.signature(type(network).__call__).parameters
    return {name: train is same for name, same in MODES.items() if name in taken}


def _check_types(variables: Any) -> None:
    others = {x.dtype.name for x in jax.tree.leaves(variables)} - {"float32"}
    if others:
        raise UserError(
            f"its network has variables of {', '.join(sorted(others))}; expected float32, which "
            "may be computed in another dtype"
        )


def _variables(params: Mapping[str, Any], stats: Mapping[str, Any]) -> nnx.Dict:
    """Merge linen's collections to one tree of variables."""
    out: dict[str, Any] = {}
    for name in {**params, **stats}:
        value = params.get(name, stats.get(name))
        if isinstance(value, Mapping):
            out[name] = _variables(params.get(name, {}), stats.get(name, {}))
        else:
            out[name] = nnx.Param(value) if name in params else nnx.BatchStat(value)
    return nnx.Dict(out)


def _write(variables: Any, values: Mapping[str, Any]) -> None:
    """Store new values of variables."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _write(variables[name], value)
        else:
            variables[name].set_value(value)
