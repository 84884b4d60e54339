"""Sections `backbone` of a config: the networks that they name, and whether two name the same."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.nets import BACKBONES, make_backbone
from ssl_jax.nets.functional import Net
from ssl_jax.weights import swin, vit

# Keys of the section `backbone` that change what a network computes and no shape of it.
UNSEEN = ("heads", "mlp", "norm_after_pool", "norm_eps", "stem", "stride_in_1x1", "window")
LEAST_EPS = 1e-6  # a smaller one in a norm is the same in float32
CHANNELS = 4096  # of images, at most


def build(backbone: Mapping[str, Any], channels: int) -> Net:
    """The network that a section `backbone` names."""
    options = dict(backbone)
    return make_backbone(str(options.pop("name", "resnet")), channels, options)


def checked(backbone: Any, channels: Any) -> tuple[Tree, Tree]:
    """`shapes` of the network that a file says it holds, whatever it says.

    Raises:
      UserError: it is none.
    """
    if not isinstance(backbone, dict) or not isinstance(channels, int):
        raise UserError(f"backbone={backbone!r:.80} of {channels!r:.80} channels is no network")
    if not 1 <= channels <= CHANNELS:
        raise UserError(f"images of {channels} channels; expected 1 to {CHANNELS}")
    try:
        return shapes(build(backbone, channels))
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"its backbone cannot be built: {type(e).__name__}: {e}"[:300]) from None


def shapes(net: Net) -> tuple[Tree, Tree]:
    """Shapes of (params, stats)."""
    return jax.eval_shape(net.init, jax.random.key(0))


def agree(
    given: Mapping[str, Any], told: Mapping[str, Any], keys: tuple[str, ...] = UNSEEN
) -> None:
    """Compare what shapes do not tell of two sections `backbone`, defaults filled in.

    Raises:
      UserError: they differ in one of the `keys`.
    """
    ours, theirs = _settings(given), _settings(told)
    for key in keys:
        if key in UNSEEN and ours.get(key) != theirs.get(key):
            raise UserError(
                f"backbone.{key} is {ours.get(key)!r} here and {theirs.get(key)!r} there, which "
                f"shapes do not show; give --config.backbone.{key}={theirs.get(key)}"
            )


def _settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of a section `backbone`, those of a published size by their values."""
    options = dict(backbone)
    make = BACKBONES.get(options.pop("name", "resnet"))
    if make is None:
        return options
    known = inspect.signature(make).parameters
    out = {name: p.default for name, p in known.items()} | options
    sizes: Mapping[str, Mapping[Any, Any]] = {"vit": vit.SIZES, "swin": swin.SIZES}
    size = sizes.get(make.__name__, {}).get(out.get("size"))
    if out.get("heads") is None and size is not None:
        out["heads"] = size[2]
    if "norm_eps" in out:
        out["norm_eps"] = max(out["norm_eps"], LEAST_EPS)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in out.items()}
