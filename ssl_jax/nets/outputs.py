"""Outputs of the user's own networks as `Features`."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.tree import Array
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.layers import at_least_float32

AXES = {"pooled": 2, "tokens": 3, "cls": 2, "map": 4}
EXPECTED = (
    "expected features (B, D), tokens (B, T, D), a map (B, h, w, C), a tuple of maps, or a dict "
    "with some of pooled, tokens, cls, map and stages"
)
LAST = "output"  # name of the last stage


def as_features(out: Any, batch: int, stages: bool = False) -> Features:
    """Read the output of a network for `batch` images.

    Args:
      out: `Features`; an array (B, D), tokens (B, T, D) without a class token, or a map
        (B, h, w, C); a tuple of maps, those of the stages; or a dict with some of "pooled",
        "tokens", "cls" (which is then also the first of the tokens), "map", and "stages", the maps
        of earlier stages. Without "pooled", the class token or else the mean over the places is the
        network's own output. Features (B, D) alone are a map of one place; tokens are one if they
        fill a square.
      stages: also return the stages: "stage1", .., for the earlier ones, and "output".

    Raises:
      UserError: the output is none of these.
    """
    if isinstance(out, Features):
        return out
    parts = _parts(out)
    earlier = parts.pop("stages", ())
    if not parts:
        raise UserError(f"its output is {_described(out)}; {EXPECTED}")
    for name, x in [*parts.items(), *((f"stages[{i}]", x) for i, x in enumerate(earlier))]:
        _check(name, x, AXES.get(name, 4), batch)
    tokens, cls, map_ = (parts.get(name) for name in ("tokens", "cls", "map"))
    patches = tokens if tokens is None or cls is None else tokens[:, 1:]
    if map_ is None and patches is not None:
        map_ = _square(patches)
    pooled = parts.get("pooled", cls)
    if pooled is None:
        places = map_ if map_ is not None else patches
        assert places is not None
        pooled = jnp.mean(at_least_float32(places), tuple(range(1, places.ndim - 1)))
    if map_ is None and tokens is None:
        map_ = pooled[:, None, None]
    last = {"map": map_, "tokens": tokens, "cls": cls}
    each = [Stage(name=f"stage{i}", map=x) for i, x in enumerate(earlier, 1)]
    each.append(Stage(name=LAST, **last))
    return Features(pooled=at_least_float32(pooled), stages=tuple(each) if stages else (), **last)


def _parts(out: Any) -> dict[str, Any]:
    """Name the parts of an output; {} if it is none that can be read."""
    if isinstance(out, Mapping):
        known = (*AXES, "stages")
        for name in out:
            if name not in known:
                hint = suggest(str(name), known)
                raise UserError(f"its output has an unknown part {name!r}; {hint}")
        return {name: x for name, x in out.items() if x is not None}
    if isinstance(out, (tuple, list)):
        maps = bool(out) and all(getattr(x, "ndim", 0) == AXES["map"] for x in out)
        return {"stages": tuple(out[:-1]), "map": out[-1]} if maps else {}
    names = {AXES[name]: name for name in ("pooled", "tokens", "map")}
    name = names.get(getattr(out, "ndim", 0))
    return {name: out} if name else {}


def _check(name: str, x: Any, axes: int, batch: int) -> None:
    """Check the shape and the type of one part."""
    floats = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    if not floats or x.ndim != axes or x.shape[0] != batch or 0 in x.shape:
        raise UserError(
            f"its output {name!r} is {_described(x)} for {batch} images; expected floats of {axes} "
            "axes, the images first"
        )


def _square(patches: Array) -> Array | None:
    """Return tokens (B, N, D) as a map, or None if N is not a square."""
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1]:
        return None
    return jnp.reshape(patches, (patches.shape[0], side, side, -1))


def _described(x: Any) -> str:
    """Describe a value: an array's type and shape, the parts of a tuple, or the type's name."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype} {tuple(x.shape)}"
    if isinstance(x, (tuple, list)):
        return f"({', '.join(map(_described, x[:4]))}{', ...' if len(x) > 4 else ''})"
    return f"a {type(x).__name__}"
