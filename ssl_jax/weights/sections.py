"""Sections `backbone` of configs: building their networks, and comparing two sections."""

from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core import config
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.nets import BACKBONES, DEFAULT, backbone_class, make_backbone
from ssl_jax.nets.functional import Net
from ssl_jax.weights import swin, vit

# Keys of the section `backbone` that change what a network computes, but not its shapes.
UNSEEN = (
    "heads", "mlp", "norm_after_pool", "norm_eps", "padding", "stem", "stride_in_1x1", "window",
)  # fmt: skip
LEAST_EPS = 1e-6  # in float32, a norm with a smaller epsilon is the same
CHANNELS = 4096  # limit for the channels of images


def build(backbone: Mapping[str, Any], channels: int) -> Net:
    """Build the network that a section `backbone` describes."""
    options = dict(backbone)
    return make_backbone(str(options.pop("name", DEFAULT)), channels, options)


def checked(backbone: Any, channels: Any) -> tuple[Tree, Tree]:
    """Return the `shapes` of the network that a file describes; the description may be invalid.

    Raises:
      UserError: no such network can be built.
    """
    if not isinstance(backbone, dict) or not isinstance(channels, int):
        raise UserError(f"invalid network: backbone={backbone!r:.80}, channels={channels!r:.80}")
    if not 1 <= channels <= CHANNELS:
        raise UserError(f"images of {channels} channels; expected 1 to {CHANNELS}")
    try:
        return shapes(build(backbone, channels))
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"its backbone cannot be built: {type(e).__name__}: {e}"[:300]) from None


def shapes(net: Net) -> tuple[Tree, Tree]:
    """Return the shapes of (params, stats)."""
    return jax.eval_shape(net.init, jax.random.key(0))


def agree(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    keys: tuple[str, ...] = UNSEEN,
    section: str = "backbone",
) -> None:
    """Check that two descriptions of a network, with defaults filled in, agree in what shapes do
    not show.

    Args:
      ours, theirs: sections like `backbone` of the config and of the loaded network.
      keys: settings to compare.
      section: where the config has ours, for messages.

    Raises:
      UserError: they differ in one of the `keys`.
    """
    own, other = _settings(ours), _settings(theirs)
    for key in keys:
        if key in UNSEEN and own.get(key) != other.get(key):
            raise UserError(
                f"{section}.{key} is {own.get(key)!r} in the config but {other.get(key)!r} in the "
                f"file, which shapes do not show; set --config.{section}.{key}={other.get(key)}"
            )


def _settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of a section `backbone`, and the heads of a published size."""
    options = dict(backbone)
    name = options.pop("name", DEFAULT)
    if name not in BACKBONES:
        return options
    kind = backbone_class(name)
    out = config.defaults(kind) | options
    sizes: Mapping[str, Mapping[Any, Any]] = {"vit": vit.SIZES, "swin": swin.SIZES}
    size = sizes.get(kind.layout, {}).get(out.get("size"))
    if out.get("heads") is None and size is not None:
        out["heads"] = size[2]
    if "norm_eps" in out:
        out["norm_eps"] = max(out["norm_eps"], LEAST_EPS)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in out.items()}
